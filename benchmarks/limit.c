/* The limit: librabbitmq, RabbitMQ's C client, publishing and consuming as fast as one connection goes.

   limit publish PORT QUEUE COUNT WARM WINDOW     persistent, mandatory, confirmed, 512 bytes, eventplat's properties and headers
   limit consume PORT QUEUE COUNT WARM PREFETCH   acked with `multiple`, nothing decoded

   Prints one line of JSON: {"rate": messages per second, "seconds": ..., "cpu_us": per message}. */

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static amqp_connection_state_t conn;
static double began, cpu_began;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void die(const char *what) {
  fprintf(stderr, "limit: %s failed\n", what);
  exit(1);
}

static void begin(void) { began = now(), cpu_began = cpu(); }

static void report(long count) {
  double seconds = now() - began;
  printf("{\"rate\": %f, \"seconds\": %f, \"cpu_us\": %f}\n", count / seconds, seconds, (cpu() - cpu_began) / count * 1e6);
}

static void open_channel(int port) {
  conn = amqp_new_connection();
  amqp_socket_t *socket = amqp_tcp_socket_new(conn);
  if (!socket || amqp_socket_open(socket, "127.0.0.1", port)) die("connect");
  amqp_rpc_reply_t r = amqp_login(conn, "/", 0, 131072, 0, AMQP_SASL_METHOD_PLAIN, "guest", "guest");
  if (r.reply_type != AMQP_RESPONSE_NORMAL) die("login");
  amqp_channel_open(conn, 1);
  if (amqp_get_rpc_reply(conn).reply_type != AMQP_RESPONSE_NORMAL) die("channel");
}

/* One frame from the broker: marks what it confirms, moves the end of the confirmed prefix. */
static void settle(char *done, long sent, long *prefix) {
  amqp_frame_t frame;
  if (amqp_simple_wait_frame(conn, &frame) != AMQP_STATUS_OK) die("confirm");
  if (frame.frame_type == AMQP_FRAME_METHOD) {
    if (frame.payload.method.id != AMQP_BASIC_ACK_METHOD) die("publish (not acked)");
    amqp_basic_ack_t *ack = frame.payload.method.decoded;
    long tag = (long)ack->delivery_tag;
    if (ack->multiple)
      for (long each = *prefix + 1; each <= tag; each++) done[each] = 1;
    else
      done[tag] = 1;
  }
  while (*prefix < sent && done[*prefix + 1]) ++*prefix;
  amqp_maybe_release_buffers(conn);
}

static void publish(const char *queue, long count, long warm, long window) {
  static char text[512];
  memset(text, 'x', sizeof text);
  char *done = calloc(count + warm + 2, 1);
  amqp_table_entry_t headers[2];
  const char *names[] = {"key", "stream"}, *values[] = {"o-00000001", "order"};
  for (int i = 0; i < 2; i++) {
    headers[i].key = amqp_cstring_bytes(names[i]);
    headers[i].value.kind = AMQP_FIELD_KIND_UTF8;
    headers[i].value.value.bytes = amqp_cstring_bytes(values[i]);
  }
  amqp_basic_properties_t p = {0};
  p._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_HEADERS_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_CORRELATION_ID_FLAG |
             AMQP_BASIC_MESSAGE_ID_FLAG | AMQP_BASIC_TIMESTAMP_FLAG | AMQP_BASIC_TYPE_FLAG | AMQP_BASIC_USER_ID_FLAG | AMQP_BASIC_APP_ID_FLAG;
  p.content_type = amqp_cstring_bytes("application/json");
  p.headers.num_entries = 2, p.headers.entries = headers;
  p.delivery_mode = 2;
  p.correlation_id = p.message_id = amqp_cstring_bytes("01890a5d-ac96-774b-bcce-b302099a8057");
  p.timestamp = 1700000000;
  p.type = amqp_cstring_bytes("bench.placed.v1");
  p.user_id = amqp_cstring_bytes("guest"), p.app_id = amqp_cstring_bytes("bench");
  amqp_bytes_t body = {sizeof text, text};
  amqp_confirm_select(conn, 1);
  long sent = 0, prefix = 0, total = count + warm;
  if (!warm) begin();
  int is_begun = !warm;
  while (prefix < total) {
    if (sent < total && sent - prefix < window) {
      if (amqp_basic_publish(conn, 1, amqp_empty_bytes, amqp_cstring_bytes(queue), 1, 0, &p, body)) die("publish");
      sent++;
    } else
      settle(done, sent, &prefix);
    if (!is_begun && prefix >= warm) begin(), is_begun = 1;
  }
  report(count);
  free(done);
}

static void consume(const char *queue, long count, long warm, long prefetch) {
  amqp_basic_qos(conn, 1, 0, prefetch, 0);
  amqp_basic_consume(conn, 1, amqp_cstring_bytes(queue), amqp_empty_bytes, 0, 0, 0, amqp_empty_table);
  if (amqp_get_rpc_reply(conn).reply_type != AMQP_RESPONSE_NORMAL) die("consume");
  long total = count + warm, every = prefetch / 4 ? prefetch / 4 : 1;
  if (!warm) begin();
  for (long got = 1; got <= total; got++) {
    amqp_envelope_t envelope;
    amqp_maybe_release_buffers(conn);
    if (amqp_consume_message(conn, &envelope, NULL, 0).reply_type != AMQP_RESPONSE_NORMAL) die("delivery");
    if (got % every == 0 || got == total) amqp_basic_ack(conn, 1, envelope.delivery_tag, 1);
    amqp_destroy_envelope(&envelope);
    if (got == warm) begin();
  }
  report(count);
}

int main(int argc, char **argv) {
  if (argc != 7) die("usage: limit publish|consume PORT QUEUE COUNT WARM WINDOW");
  open_channel(atoi(argv[2]));
  (strcmp(argv[1], "publish") ? consume : publish)(argv[3], atol(argv[4]), atol(argv[5]), atol(argv[6]));
  amqp_channel_close(conn, 1, AMQP_REPLY_SUCCESS);
  amqp_connection_close(conn, AMQP_REPLY_SUCCESS);
  return 0;
}
