# With a C compiler.
FROM python:3.12 AS build
WORKDIR /src
COPY . .
RUN make wheel && python -m venv /opt/raiden && /opt/raiden/bin/pip install --no-cache-dir dist/*.whl

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/raiden --shell /usr/sbin/nologin raiden \
    && install -d -o raiden -g raiden -m 0750 /var/lib/raiden
COPY --from=build /opt/raiden /opt/raiden
ENV PATH=/opt/raiden/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    RAIDEN_HTTP_HOST=0.0.0.0 \
    RAIDEN_OPEN_TO_THE_WORLD=True \
    RAIDEN_DATA_DIR=/var/lib/raiden
USER raiden
WORKDIR /var/lib/raiden
VOLUME /var/lib/raiden
EXPOSE 8088 9989
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8088/-/health', timeout=4)"]
ENTRYPOINT ["raiden"]
