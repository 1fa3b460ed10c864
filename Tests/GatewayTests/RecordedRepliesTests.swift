import Testing

@testable import Gateway

/// What a client sends and what Redis 7.0.15 answered to it, byte for byte.
struct Recorded: Sendable {
    let sent: [UInt8]
    let story: String
    let reply: String
    let closes: Bool

    static func commands(_ commands: String, _ reply: String, closes: Bool = false) -> Recorded {
        Recorded(sent: Harness.encoded(commands), story: commands, reply: reply, closes: closes)
    }

    static func raw(_ text: String, _ reply: String, closes: Bool = false) -> Recorded {
        Recorded(sent: Array(text.utf8), story: text, reply: reply, closes: closes)
    }
}

@Suite("What a real Redis answers")
struct RecordedRepliesTests {
    @Test func everyRecordedReplyIsGivenByteForByte() {
        let harness = Harness()
        for recorded in recordedReplies {
            harness.reconnect()
            harness.feed(recorded.sent)
            #expect(harness.sent() == recorded.reply, "\(recorded.story)")
            #expect(harness.connection.isClosing == recorded.closes, "\(recorded.story)")
        }
    }

    @Test func arrivingByteByByteChangesNothing() {
        let harness = Harness()
        for recorded in recordedReplies {
            harness.reconnect()
            for byte in recorded.sent { harness.feed([byte]) }
            #expect(harness.sent() == recorded.reply, "\(recorded.story)")
        }
    }
}

/// Recorded in this order on one empty store, each line on a connection of its own.
private let recordedReplies: [Recorded] = [
    .commands("PING", "+PONG\r\n"),
    .commands("PING hi", "$2\r\nhi\r\n"),
    .commands("PING a b", "-ERR wrong number of arguments for 'ping' command\r\n"),
    .commands("ECHO", "-ERR wrong number of arguments for 'echo' command\r\n"),
    .commands("ECHO x", "$1\r\nx\r\n"),
    .commands("ECHO a b", "-ERR wrong number of arguments for 'echo' command\r\n"),
    .commands("get", "-ERR wrong number of arguments for 'get' command\r\n"),
    .commands("foo", "-ERR unknown command 'foo', with args beginning with: \r\n"),
    .commands("foo a b c", "-ERR unknown command 'foo', with args beginning with: 'a' 'b' 'c' \r\n"),
    .commands(
        "foo \"a\\x0d\\x0ab\" xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
            + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx yyy",
        "-ERR unknown command 'foo', with args beginning with: 'a  b' 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
            + "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' \r\n"),
    .commands("\"\" a", "-ERR unknown command '', with args beginning with: 'a' \r\n"),
    .commands("SELECT 0", "+OK\r\n"),
    .commands("SELECT 99", "-ERR DB index is out of range\r\n"),
    .commands("SELECT a", "-ERR value is not an integer or out of range\r\n"),
    .commands("SELECT -1", "-ERR DB index is out of range\r\n"),
    .commands("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
    .commands("HELLO abc", "-ERR Protocol version is not an integer or out of range\r\n"),
    .commands(
        "HELLO 3 SETNAME \"x y\"",
        "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
    .commands("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'\r\n"),
    .commands("HELLO 3 AUTH a", "-ERR Syntax error in HELLO option 'AUTH'\r\n"),
    .commands("CLIENT", "-ERR wrong number of arguments for 'client' command\r\n"),
    .commands("CLIENT FOO", "-ERR unknown subcommand 'FOO'. Try CLIENT HELP.\r\n"),
    .commands("CLIENT SETNAME", "-ERR wrong number of arguments for 'client|setname' command\r\n"),
    .commands(
        "CLIENT SETNAME \"a b\"",
        "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
    .commands(
        "CLIENT SETNAME a ; CLIENT GETNAME ; CLIENT SETNAME \"\" ; CLIENT GETNAME",
        "+OK\r\n$1\r\na\r\n+OK\r\n$-1\r\n"),
    .commands("CLIENT ID a", "-ERR wrong number of arguments for 'client|id' command\r\n"),
    .commands("CLIENT LIST FOO", "-ERR syntax error\r\n"),
    .commands("CLIENT NO-EVICT on", "+OK\r\n"),
    .commands("CLIENT NO-EVICT foo", "-ERR syntax error\r\n"),
    .commands("CLIENT REPLY ON", "+OK\r\n"),
    .commands("CLIENT REPLY FOO", "-ERR syntax error\r\n"),
    .commands("QUIT ; PING", "+OK\r\n", closes: true),
    .commands("QUIT a", "+OK\r\n", closes: true),
    .commands("RESET", "+RESET\r\n"),
    .commands("SET a 1", "+OK\r\n"),
    .commands("SET a", "-ERR wrong number of arguments for 'set' command\r\n"),
    .commands("SET a 1 FOO", "-ERR syntax error\r\n"),
    .commands("SET a 1 EX", "-ERR syntax error\r\n"),
    .commands("SET a 1 EX a", "-ERR value is not an integer or out of range\r\n"),
    .commands("SET a 1 EX 0", "-ERR invalid expire time in 'set' command\r\n"),
    .commands("SET a 1 EX -1", "-ERR invalid expire time in 'set' command\r\n"),
    .commands("SET a 1 EX 9223372036854775807", "-ERR invalid expire time in 'set' command\r\n"),
    .commands("SET a 1 PX 9223372036854775807", "-ERR invalid expire time in 'set' command\r\n"),
    .commands("SET a 1 EX 10 PX 10", "-ERR syntax error\r\n"),
    .commands("SET a 1 EX 10 EX 10 ; TTL a", "+OK\r\n:10\r\n"),
    .commands("SET a 1 NX XX", "-ERR syntax error\r\n"),
    .commands("SET a 1 NX NX", "$-1\r\n"),
    .commands("SET a 1 KEEPTTL EX 10", "-ERR syntax error\r\n"),
    .commands("SET a 1 EX 10 KEEPTTL", "-ERR syntax error\r\n"),
    .commands("SET a 1 KEEPTTL ; TTL a", "+OK\r\n:10\r\n"),
    .commands("SET a 2 ; TTL a", "+OK\r\n:-1\r\n"),
    .commands("SET a 2 NX", "$-1\r\n"),
    .commands("SET nokey 2 XX", "$-1\r\n"),
    .commands("SET a 2 GET", "$1\r\n2\r\n"),
    .commands("SET a 3 NX GET", "$1\r\n2\r\n"),
    .commands("SET nokey 3 XX GET", "$-1\r\n"),
    .commands("SET fresh 3 NX GET ; GET fresh", "$-1\r\n$1\r\n3\r\n"),
    .commands("SET a 1 EX 10 FOO", "-ERR syntax error\r\n"),
    .commands("SET a 1 EX 10 NX GET ; TTL a ; PTTL nokey", "$1\r\n2\r\n:-1\r\n:-2\r\n"),
    .commands("SET a 1 px 1500 ; TTL a", "+OK\r\n:2\r\n"),
    .commands("SET a 1 pxat 99999999999999 ; PERSIST a", "+OK\r\n:1\r\n"),
    .commands("SET a 1 exat 99999999999 xx ; PERSIST a", "+OK\r\n:1\r\n"),
    .commands("SETEX a 0 v", "-ERR invalid expire time in 'setex' command\r\n"),
    .commands("SETEX a x v", "-ERR value is not an integer or out of range\r\n"),
    .commands("SETEX a 10 v ; TTL a", "+OK\r\n:10\r\n"),
    .commands("PSETEX a 0 v", "-ERR invalid expire time in 'psetex' command\r\n"),
    .commands("PSETEX a 9223372036854775807 v", "-ERR invalid expire time in 'psetex' command\r\n"),
    .commands("PSETEX a 10000 v ; TTL a", "+OK\r\n:10\r\n"),
    .commands("SETNX a 1", ":0\r\n"),
    .commands("SETNX b 1", ":1\r\n"),
    .commands("GETSET a 5", "$1\r\nv\r\n"),
    .commands("GETDEL a ; GETDEL a", "$1\r\n5\r\n$-1\r\n"),
    .commands("INCR a", ":1\r\n"),
    .commands("INCRBY a x", "-ERR value is not an integer or out of range\r\n"),
    .commands("INCRBY a 01", "-ERR value is not an integer or out of range\r\n"),
    .commands("INCRBY a \" 1\"", "-ERR value is not an integer or out of range\r\n"),
    .commands("INCRBY a +1", "-ERR value is not an integer or out of range\r\n"),
    .commands("INCRBY a -0", "-ERR value is not an integer or out of range\r\n"),
    .commands("INCRBY a 9223372036854775808", "-ERR value is not an integer or out of range\r\n"),
    .commands("INCRBY a 41 ; DECRBY a -1", ":42\r\n:43\r\n"),
    .commands("DECRBY a -9223372036854775808", "-ERR decrement would overflow\r\n"),
    .commands(
        "SET i 9223372036854775807 ; INCR i ; INCRBY i 2 ; DECRBY i -2 ; GET i",
        "+OK\r\n" + "-ERR increment or decrement would overflow\r\n" * 3 + "$19\r\n9223372036854775807\r\n"),
    .commands(
        "SET i -9223372036854775808 ; DECR i ; DEL i",
        "+OK\r\n-ERR increment or decrement would overflow\r\n:1\r\n"),
    .commands("DECR a", ":42\r\n"),
    .commands(
        "SET s abc ; INCR s ; APPEND s def ; STRLEN s ; STRLEN none ; TYPE s ; TYPE none",
        "+OK\r\n-ERR value is not an integer or out of range\r\n:6\r\n:6\r\n:0\r\n+string\r\n+none\r\n"),
    .commands("DEL s s none", ":1\r\n"),
    .commands("UNLINK s none", ":0\r\n"),
    .commands("EXISTS a a none", ":2\r\n"),
    .commands("MSET a 1 b", "-ERR wrong number of arguments for 'mset' command\r\n"),
    .commands("MSET a 1 b 2 ; MGET a b c", "+OK\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n"),
    .commands("EXPIRE a x", "-ERR value is not an integer or out of range\r\n"),
    .commands("EXPIRE a 10 FOO", "-ERR Unsupported option FOO\r\n"),
    .commands("EXPIRE a 9223372036854775807", "-ERR invalid expire time in 'expire' command\r\n"),
    .commands("EXPIRE a -9223372036854775808", "-ERR invalid expire time in 'expire' command\r\n"),
    .commands("EXPIRE none 10", ":0\r\n"),
    .commands("EXPIRE a 10 ; TTL a ; PERSIST a ; PERSIST a ; TTL a", ":1\r\n:10\r\n:1\r\n:0\r\n:-1\r\n"),
    .commands("PEXPIRE a 9223372036854775807", "-ERR invalid expire time in 'pexpire' command\r\n"),
    .commands("PEXPIREAT a 9223372036854775807", ":1\r\n"),
    .commands("PEXPIREAT a -9223372036854775808 ; EXISTS a", ":1\r\n:0\r\n"),
    .commands("EXPIREAT b 1 ; EXISTS b", ":1\r\n:0\r\n"),
    .commands("EXPIREAT a 9223372036854775807", "-ERR invalid expire time in 'expireat' command\r\n"),
    .commands("EXPIREAT a -9223372036854775808", "-ERR invalid expire time in 'expireat' command\r\n"),
    .commands("DEL fresh ; SET i 5", ":1\r\n+OK\r\n"),
    .commands("SCAN", "-ERR wrong number of arguments for 'scan' command\r\n"),
    .commands("SCAN x", "-ERR invalid cursor\r\n"),
    .commands("SCAN 0 FOO", "-ERR syntax error\r\n"),
    .commands("SCAN 0 COUNT", "-ERR syntax error\r\n"),
    .commands("SCAN 0 COUNT 0", "-ERR syntax error\r\n"),
    .commands("SCAN 0 COUNT x", "-ERR value is not an integer or out of range\r\n"),
    .commands("SCAN 0 MATCH", "-ERR syntax error\r\n"),
    .commands("SCAN 0 TYPE hash", "*2\r\n$1\r\n0\r\n*0\r\n"),
    .commands("SCAN 0 TYPE foo", "*2\r\n$1\r\n0\r\n*0\r\n"),
    .commands("SCAN 0 TYPE string COUNT 100", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\ni\r\n"),
    .commands("SCAN 0 MATCH [h-j] COUNT 100", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\ni\r\n"),
    .commands("SCAN 0 MATCH x*", "*2\r\n$1\r\n0\r\n*0\r\n"),
    .commands("SCAN 18446744073709551616", "-ERR invalid cursor\r\n"),
    .commands("DBSIZE", ":1\r\n"),
    .commands("DBSIZE a", "-ERR wrong number of arguments for 'dbsize' command\r\n"),
    .commands("CONFIG", "-ERR wrong number of arguments for 'config' command\r\n"),
    .commands("CONFIG GET", "-ERR wrong number of arguments for 'config|get' command\r\n"),
    .commands("CONFIG GET save", "*2\r\n$4\r\nsave\r\n$0\r\n\r\n"),
    .commands("CONFIG GET foo", "*0\r\n"),
    .commands("CONFIG FOO", "-ERR unknown subcommand 'FOO'. Try CONFIG HELP.\r\n"),
    .commands("COMMAND COUNT a", "-ERR wrong number of arguments for 'command|count' command\r\n"),
    .commands("COMMAND FOO", "-ERR unknown subcommand 'FOO'. Try COMMAND HELP.\r\n"),
    .commands("COMMAND INFO foo", "*1\r\n$-1\r\n"),
    .commands("COMMAND LIST FOO", "-ERR syntax error\r\n"),
    .commands("COMMAND LIST FILTERBY FOO a", "-ERR syntax error\r\n"),
    .commands("COMMAND LIST FILTERBY MODULE a", "*0\r\n"),
    .commands("COMMAND LIST FILTERBY PATTERN strl*", "*1\r\n$6\r\nstrlen\r\n"),
    .commands("COMMAND DOCS foo", "*0\r\n"),
    .commands("COMMAND GETKEYS foo", "-ERR wrong number of arguments for 'command|getkeys' command\r\n"),
    .commands("COMMAND GETKEYS get", "-ERR wrong number of arguments for 'command|getkeys' command\r\n"),
    .commands("COMMAND GETKEYS mset a 1 b 2", "*2\r\n$1\r\na\r\n$1\r\nb\r\n"),
    .commands("COMMAND GETKEYS get a b c", "-ERR Invalid number of arguments specified for command\r\n"),
    .commands("COMMAND GETKEYS foo a", "-ERR Invalid command specified\r\n"),
    .commands("COMMAND GETKEYS ping a", "-ERR The command has no key arguments\r\n"),
    .commands("COMMAND GETKEYS", "-ERR wrong number of arguments for 'command|getkeys' command\r\n"),
    .commands("INFO foo", "$0\r\n\r\n"),
    .raw("PING\r\n", "+PONG\r\n"),
    .raw("PING\n", "+PONG\r\n"),
    .raw("\r\n\r\nPING\r\n", "+PONG\r\n"),
    .raw("set k \"a\\x41\\n\" \r\nget k\r\n", "+OK\r\n$3\r\naA\n\r\n"),
    .raw("set k 'a\\'b'\r\nget k\r\n", "+OK\r\n$3\r\na'b\r\n"),
    .raw("set k \"a\"b\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n", closes: true),
    .raw("set k \"a\r\n", "-ERR Protocol error: unbalanced quotes in request\r\n", closes: true),
    .raw("*x\r\n", "-ERR Protocol error: invalid multibulk length\r\n", closes: true),
    .raw("*-1\r\nPING\r\n", "+PONG\r\n"),
    .raw("*0\r\nPING\r\n", "+PONG\r\n"),
    .raw("*1\r\nfoo\r\n", "-ERR Protocol error: expected '$', got 'f'\r\n", closes: true),
    .raw("*1\r\n$x\r\n", "-ERR Protocol error: invalid bulk length\r\n", closes: true),
    .raw("*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length\r\n", closes: true),
    .raw("*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length\r\n", closes: true),
    .raw("*2147483648\r\n", "-ERR Protocol error: invalid multibulk length\r\n", closes: true),
    .raw("*9999999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n", closes: true),
    .raw("*1\r\n\r\n", "-ERR Protocol error: expected '$', got ' '\r\n", closes: true),
    .raw("*1\r\n$0\r\n\r\n", "-ERR unknown command '', with args beginning with: \r\n"),
    .raw("  \r\nPING\r\n", "+PONG\r\n"),
    .raw("PING\r\n*1\r\n!\r\nPING\r\n", "+PONG\r\n-ERR Protocol error: expected '$', got '!'\r\n", closes: true),
    .raw("*01\r\n$4\r\nPING\r\n", "-ERR Protocol error: invalid multibulk length\r\n", closes: true),
    .raw("*1\r\n$04\r\nPING\r\n", "-ERR Protocol error: invalid bulk length\r\n", closes: true),
    .raw("*1\r\n$4\r\nPINGxx*1\r\n$4\r\nPING\r\n", "+PONG\r\n+PONG\r\n"),
    .raw(
        "*2\r\n$3\r\nfoo\r\n$5\r\na\u{0}b\u{1f}c\r\n",
        "-ERR unknown command 'foo', with args beginning with: 'a' \r\n"),
]
