import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/** Many threads that fill and check objects on the heap, and make garbage. */
public class Threads {
    static final int THREADS = 40;
    static final AtomicLong progress = new AtomicLong();
    static final ConcurrentLinkedQueue<String> errors = new ConcurrentLinkedQueue<>();
    static final ConcurrentHashMap<Integer, Long> rounds = new ConcurrentHashMap<>();

    static void work(int n) {
        ArrayDeque<int[]> kept = new ArrayDeque<>();
        for (int i = 0; ; i++) {
            int[] block = new int[4 << 10];
            Arrays.fill(block, n * 1_000_003 + i);
            kept.add(block);
            if (kept.size() > 16) {
                int[] old = kept.remove();
                int want = n * 1_000_003 + i - 16;
                for (int v : old) {
                    if (v != want) {
                        errors.add("thread " + n + " found " + v + " for " + want);
                        break;
                    }
                }
            }
            long before = rounds.merge(n, 1L, Long::sum);
            if (before != i + 1) {
                errors.add("thread " + n + " is in round " + before + " for " + (i + 1));
            }
            try {
                Thread.sleep(10);
            } catch (InterruptedException e) {
                errors.add(e.toString());
            }
        }
    }

    static void answer(Socket socket) throws IOException {
        try (socket) {
            String word = new BufferedReader(new InputStreamReader(socket.getInputStream())).readLine();
            String list = errors.isEmpty() ? "" : "\"" + errors.peek().replace('"', '\'') + "\"";
            String text = "{\"progress\":" + progress.get() + ",\"errors\":[" + list + "]}\n";
            socket.getOutputStream().write(text.getBytes(StandardCharsets.UTF_8));
            socket.close();
            if ("exit".equals(word)) {
                System.exit(errors.isEmpty() ? 0 : 1);
            }
        }
    }

    public static void main(String[] args) throws IOException {
        for (int n = 0; n < THREADS; n++) {
            int number = n;
            Thread t = new Thread(() -> work(number));
            t.setDaemon(true);
            t.start();
        }
        long[] last = {System.nanoTime()};
        Executors.newScheduledThreadPool(2).scheduleAtFixedRate(() -> {
            long now = System.nanoTime();
            if (now < last[0]) {
                errors.add("the clock went back");
            }
            last[0] = now;
            progress.incrementAndGet();
        }, 5, 5, TimeUnit.MILLISECONDS);
        try (ServerSocket server = new ServerSocket(Integer.parseInt(args[0]))) {
            while (true) {
                try {
                    answer(server.accept());
                } catch (IOException e) {
                    // The connection was closed; the next one may be asked over.
                }
            }
        }
    }
}
