"""The chat's server: it knows who is logged in, who may enter which room, and who said what.

Browsers get the messages from Raiden, with a token from ``/token``. They send theirs to this server, which publishes
them: README.md says why.
"""

from __future__ import annotations

import json
import os
import re
import time
from http.client import HTTPException as BadAnswer
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import jwt
from flask import Flask, Response, abort, request, session
from werkzeug.exceptions import HTTPException
from werkzeug.security import check_password_hash, generate_password_hash

# The address of this application's page, and Raiden's: for the page, and for this server.
ORIGIN = os.environ.get("CHAT_ORIGIN", "http://127.0.0.1:8000")
RAIDEN = os.environ.get("CHAT_RAIDEN", "http://127.0.0.1:8088")
SOCKET = RAIDEN.replace("http", "ws", 1) + "/-/websocket"
# What only this server and Raiden know.
JWT_SECRET = os.environ["CHAT_JWT_SECRET"]
API_KEY = os.environ["CHAT_API_KEY"]
# Seconds for which a token is good. The page renews it.
TOKEN_SECONDS = float(os.environ.get("CHAT_TOKEN_SECONDS", "300"))

# All of this is in the database of a real application.
USERS = {name: generate_password_hash(name + "123") for name in ("ann", "bob", "eve", "mod")}
MODERATORS = {"mod"}
ROOMS = {"lobby": None, "garden": None, "staff": {"ann", "mod"}}  # a private room has a set of members
BANNED: set[str] = set()

NOBODY = generate_password_hash("")  # so that a wrong name takes as long as a wrong password
# The page runs its own script alone, and speaks to this server and to Raiden.
CSP = (
    f"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self' {SOCKET}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)

app = Flask(__name__, static_folder="page", static_url_path="/page")
app.config.update(
    SECRET_KEY=os.environ["CHAT_COOKIE_SECRET"],  # signs the cookie
    SESSION_COOKIE_NAME="chat",
    SESSION_COOKIE_HTTPONLY=True,
    SESSION_COOKIE_SAMESITE="Strict",
    SESSION_COOKIE_SECURE=ORIGIN.startswith("https:"),
    MAX_CONTENT_LENGTH=64 * 1024,
)


# Who may do what.


def current_user() -> str:
    name = session.get("name")
    if name not in USERS:
        abort(401, "log in first")
    if name in BANNED:
        abort(403, "you are banned")
    return str(name)


def may_enter(name: str, room: str) -> bool:
    if room not in ROOMS:
        return False
    members = ROOMS[room]
    return members is None or name in members


def make_token(name: str, issued: float) -> str:
    """What Raiden needs to know of a user: the rooms to read, and until when. Nobody publishes with a token."""
    channels = [f"room.{room}" for room in ROOMS if may_enter(name, room)]
    claims = {
        "sub": name,
        "iat": issued,
        "exp": issued + TOKEN_SECONDS,
        "subscribe": channels,
        "history": channels,
        "publish": [],
    }
    return jwt.encode(claims, JWT_SECRET, "HS256")


def ask_raiden(path: str, body: Any, **headers: str) -> None:
    """POST to Raiden with this server's key. If that fails, the browser gets 503, and tries again."""
    headers |= {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
    try:
        urlopen(Request(RAIDEN + path, json.dumps(body).encode(), headers), timeout=10).close()
    except (OSError, BadAnswer) as error:
        app.logger.warning("Raiden: POST %s: %s", path, error)
        abort(503, "Raiden does not do it now: try again")


# Requests.


@app.before_request
def refuse_other_sites() -> None:
    """A page of another site can make a browser send requests here. Those that change something must be our page's."""
    if request.method == "POST" and request.headers.get("Origin") != ORIGIN:
        abort(403, f"use {ORIGIN}")


def text(name: str, most: int) -> str:
    """A text of the request's JSON."""
    body = request.get_json()
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str) or not 0 < len(value) <= most:
        abort(400, f"{name} must be a text of 1 to {most} characters")
    return value


@app.get("/")
def page() -> Response:
    return app.send_static_file("index.html")


@app.post("/login")
def log_in() -> dict[str, Any]:
    name, password = text("name", 100), text("password", 100)
    if not check_password_hash(USERS.get(name, NOBODY), password):
        abort(401, "wrong name or password")
    session.clear()
    session["name"] = name
    return me()


@app.post("/logout")
def log_out() -> dict[str, Any]:
    session.clear()
    return {}


@app.get("/me")
def me() -> dict[str, Any]:
    name = current_user()
    rooms = [{"name": room, "private": members is not None} for room, members in ROOMS.items()]
    return {"name": name, "moderator": name in MODERATORS, "rooms": rooms, "raiden": SOCKET}


@app.post("/token")
def token() -> dict[str, Any]:
    issued = time.time()  # before the look at BANNED, so that a ban at this moment revokes this token, too
    return {"token": make_token(current_user(), issued)}


@app.post("/rooms/<room>")
def say(room: str) -> dict[str, Any]:
    """Publish what the user says, under the user's name. A request that comes twice has the same key: said once."""
    name, said, key = current_user(), text("text", 2000), text("key", 36)
    if not may_enter(name, room):
        abort(403, "this room is private")
    if not re.fullmatch("[0-9a-f-]+", key):
        abort(400, "key must be a UUID")
    message = {"from": name, "text": said, "at": int(time.time())}
    ask_raiden(f"/room.{room}", message, **{"Idempotency-Key": f"{name}:{key}"})
    return {}


@app.post("/ban")
def ban() -> dict[str, Any]:
    """Ban a user: no token any more, and an end to what there is by those that were made before, on all nodes."""
    name = text("name", 100)
    if current_user() not in MODERATORS:
        abort(403, "only moderators ban")
    if name not in USERS or name in MODERATORS:
        abort(400, "this user can't be banned")
    BANNED.add(name)
    ask_raiden("/-/revoke", {"sub": name, "ttl": TOKEN_SECONDS + 60})  # as long as those tokens live, and a bit longer
    return {}


@app.errorhandler(HTTPException)
def failed(error: HTTPException) -> tuple[dict[str, Any], int]:
    return {"error": error.description}, error.code or 500


@app.after_request
def protect(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = CSP
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response


if __name__ == "__main__":
    app.run("127.0.0.1", urlsplit(ORIGIN).port or 8000)
