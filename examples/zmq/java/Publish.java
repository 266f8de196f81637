import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;

import org.zeromq.SocketType;
import org.zeromq.ZContext;
import org.zeromq.ZMQ;
import org.zeromq.ZMonitor;

/** Publishes the lines of standard input, each a JSON value, to a channel: Publish PUSH-ENDPOINT CHANNEL */
public class Publish {
    public static void main(String[] args) throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (ZContext context = new ZContext()) {
            context.setLinger(-1); // the default, 0, would lose at the end what is queued
            ZMQ.Socket socket = connect(context, args[0]);
            for (String line; (line = lines.readLine()) != null;) {
                socket.sendMore(args[1]);
                socket.send(line);
            }
        } // waits until all is sent
    }

    /** Connects. 1 in 50 of JeroMQ 0.6's connections sends nothing (its pull request 1022). Most are made again after the
     *  time of setHandshakeIvl, by default 30 s; right after the start of the process some are not: so start over. */
    private static ZMQ.Socket connect(ZContext context, String endpoint) {
        while (true) {
            ZMQ.Socket socket = context.createSocket(SocketType.PUSH);
            useKeys(socket);
            socket.setHandshakeIvl(2000);
            ZMonitor monitor = new ZMonitor(context, socket);
            monitor.add(ZMonitor.Event.HANDSHAKE_PROTOCOL).start();
            socket.connect(endpoint);
            boolean greeted = monitor.nextEvent(3000) != null;
            monitor.close();
            if (greeted) {
                return socket;
            }
            socket.close();
        }
    }

    private static void useKeys(ZMQ.Socket socket) {
        if (System.getenv("ZMQ_SERVER_KEY") == null) {
            return;
        }
        socket.setCurveServerKey(ZMQ.Curve.z85Decode(System.getenv("ZMQ_SERVER_KEY")));
        socket.setCurvePublicKey(ZMQ.Curve.z85Decode(System.getenv("ZMQ_PUBLIC_KEY")));
        socket.setCurveSecretKey(ZMQ.Curve.z85Decode(System.getenv("ZMQ_SECRET_KEY")));
    }
}
