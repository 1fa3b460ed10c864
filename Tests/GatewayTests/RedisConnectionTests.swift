import RaftCore
import ShardMap
import Testing

@testable import Gateway

@Suite("Commands and their replies")
struct CommandTests {
    @Test func helloChangesTheProtocolFromThereOn() {
        let harness = Harness()
        let fields = { (version: Int) in
            "$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n"
                + "$5\r\nproto\r\n:\(version)\r\n$2\r\nid\r\n:7\r\n"
                + "$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
        }
        #expect(harness.run("HELLO") == "*14\r\n" + fields(2))
        #expect(
            harness.run("GET none ; HELLO 3 SETNAME me ; GET none ; CLIENT GETNAME ; MGET none none")
                == "$-1\r\n%7\r\n" + fields(3) + "_\r\n$2\r\nme\r\n*2\r\n_\r\n_\r\n")
        #expect(
            harness.run("CONFIG GET save appendonly")
                == "%2\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$4\r\nsave\r\n$0\r\n\r\n")
        #expect(harness.run("COMMAND DOCS get") == "%0\r\n")
        #expect(harness.run("INFO clients") == "=36\r\ntxt:# Clients\r\nconnected_clients:1\r\n\r\n")
        #expect(harness.run("HELLO 2 ; GET none") == "*14\r\n" + fields(2) + "$-1\r\n")
        #expect(harness.run("HELLO 3 ; RESET ; GET none ; CLIENT GETNAME").hasSuffix("+RESET\r\n$-1\r\n$-1\r\n"))
    }

    @Test func aRefusedHelloChangesNothing() {
        let harness = Harness()
        #expect(
            harness.run("HELLO 3 SETNAME a AUTH user password")
                == "-ERR HELLO AUTH is not supported: this server has no users and no passwords\r\n")
        #expect(harness.run("GET none ; CLIENT GETNAME") == "$-1\r\n$-1\r\n")
    }

    @Test func commandDescribesItself() {
        let harness = Harness()
        #expect(
            harness.run("COMMAND INFO GET none")
                == "*2\r\n*10\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n"
                + "*3\r\n+@read\r\n+@string\r\n+@fast\r\n*0\r\n*0\r\n*0\r\n$-1\r\n")
        let count = CommandName.allCases.count
        #expect(harness.run("COMMAND COUNT") == ":\(count)\r\n")
        #expect(harness.run("COMMAND").hasPrefix("*\(count)\r\n*10\r\n$6\r\nappend\r\n:3\r\n"))
        #expect(harness.run("COMMAND LIST").hasPrefix("*\(count)\r\n$6\r\nappend\r\n"))
        #expect(harness.run("COMMAND LIST FILTERBY ACLCAT keyspace").hasPrefix("*13\r\n$3\r\ndel\r\n"))
    }

    @Test func clientKnowsItself() {
        let harness = Harness()
        harness.reconnect(id: 42)
        #expect(harness.run("CLIENT ID") == ":42\r\n")
        #expect(harness.run("CLIENT SETNAME me ; CLIENT SETINFO LIB-NAME lib ; CLIENT SETINFO lib-ver 1.2") == ok(3))
        harness.clock.now = harness.clock.now + .milliseconds(2500)
        let line = "id=42 addr=10.0.0.1:5000 name=me age=2 flags=N db=0 resp=2 user=default lib-name=lib lib-ver=1.2\n"
        #expect(harness.run("CLIENT INFO ; CLIENT LIST ID 1 42") == "$\(line.utf8.count)\r\n\(line)\r\n" * 2)
        #expect(harness.run("CLIENT LIST ID 1 ; CLIENT LIST TYPE master") == "$0\r\n\r\n" * 2)
        #expect(harness.run("CLIENT SETINFO foo bar") == "-ERR Unrecognized option 'foo'\r\n")
        #expect(harness.run("CLIENT NO-TOUCH on ; CLIENT TRACKING off") == ok(2))
        #expect(harness.run("CLIENT TRACKING on").hasPrefix("-ERR CLIENT TRACKING is not supported"))
        #expect(harness.run("CLIENT REPLY skip").hasPrefix("-ERR CLIENT REPLY OFF and SKIP are not supported"))
    }

    @Test func infoGivesTheSectionsAskedFor() {
        let harness = Harness()
        let server = "# Server\r\nflotilla_version:1\r\nmode:test\r\n"
        let clients = "# Clients\r\nconnected_clients:1\r\n"
        let bulk = { (text: String) in "$\(text.utf8.count)\r\n\(text)\r\n" }
        #expect(harness.run("INFO ; INFO all ; INFO DEFAULT") == bulk(server + "\r\n" + clients) * 3)
        #expect(harness.run("INFO server ; INFO clients none") == bulk(server) + bulk(clients))
    }

    @Test func timeIsTheWallClocks() {
        #expect(Harness().run("TIME") == "*2\r\n$10\r\n1700000000\r\n$6\r\n123000\r\n")
    }

    @Test func whatIsNotServedSaysSo() {
        let harness = Harness()
        #expect(harness.run("KEYS *") == "-ERR KEYS is not supported: it would visit every shard at once; use SCAN\r\n")
        #expect(
            harness.run("EXPIRE a 10 NX")
                == "-ERR the options NX, XX, GT and LT of 'expire' are not supported\r\n")
        // what comes between is executed, and says so: never QUEUED, never a reply of EXEC or DISCARD
        let refusal = "-ERR MULTI is not supported: each command is executed by itself, when it comes\r\n"
        #expect(harness.run("MULTI ; SET m 1 ; EXEC") == refusal + "+OK\r\n-ERR EXEC without MULTI\r\n")
        #expect(harness.run("multi ; INCR m ; discard") == refusal + ":2\r\n-ERR DISCARD without MULTI\r\n")
        #expect(harness.run("GET m ; DEL m") == "$1\r\n2\r\n:1\r\n")
    }

    @Test(arguments: [0, 3_600_000, -3_600_000] as [Int64])
    func expiriesDoNotDependOnTheGatewaysClock(_ error: Int64) {
        let harness = Harness()
        harness.clock.wallClockMilliseconds += error
        #expect(
            harness.run("SET a 1 PXAT 1700000005123 ; PTTL a ; SET a 1 EXAT 1700000001 ; PTTL a")
                == "+OK\r\n:5000\r\n+OK\r\n:877\r\n")
        #expect(harness.run("SET a 1 ; SET a 2 PXAT 5 GET ; PTTL a") == "+OK\r\n$1\r\n1\r\n:-2\r\n")
        #expect(harness.run("SET a 1 ; SET a 2 PXAT 5 NX ; PTTL a") == "+OK\r\n$-1\r\n:-1\r\n")
        #expect(
            harness.run("EXPIREAT a 1700000002 ; PTTL a ; PEXPIREAT a 1 ; EXISTS a") == ":1\r\n:1877\r\n:1\r\n:0\r\n")
        #expect(harness.run("SET a 1 PX 1499 ; TTL a ; PEXPIRE a 1500 ; TTL a") == "+OK\r\n:1\r\n:1\r\n:2\r\n")
    }

    @Test func aMomentIsPassedOnAsItIs() {
        let harness = Harness()
        _ = harness.run("SET a 1 EXAT 2 ; SET a 1 PXAT 3 ; EXPIREAT a -4 ; PEXPIREAT a 9223372036854775807")
        let operations = harness.router.rounds[0]
        #expect(operations.map(\.expiresAtMilliseconds) == [2000, 3, -4000, .max])
        #expect(operations.allSatisfy { $0.expiresInMilliseconds == nil && $0.number == 0 })
    }

    @Test func keysThatCannotBeAreRefusedAndNothingIsExecuted() {
        let harness = Harness()
        let refused = "-ERR a key must be 1 to 65536 bytes long\r\n"
        #expect(harness.run("MSET a 1 \"\" 2 ; GET a") == refused + "$-1\r\n")
        harness.feed(Harness.encoded(words: [Array("GET".utf8), [UInt8](repeating: 1, count: 65_537)]))
        #expect(harness.sent() == refused)
        #expect(harness.router.rounds.count == 1)
    }
}

@Suite("Errors of the store")
struct StoreErrorTests {
    @Test func aNamedErrorIsTheWholeReply() {
        let harness = Harness()
        harness.router.failure = NamedErrorThrown(.outcomeUnknown, "the answer\r\nwas lost")
        #expect(harness.run("MSET a 1 b 2") == "-UNKNOWN the answer  was lost\r\n")
        #expect(
            harness.run("MGET a b ; PING ; DEL a b")
                == "-UNKNOWN the answer  was lost\r\n+PONG\r\n-UNKNOWN the answer  was lost\r\n")
        harness.router.failure = NamedErrorThrown(.noLeader)
        let reply = "-TRYAGAIN the group has no leader at the moment; try again\r\n"
        #expect(harness.run("GET a ; SCAN 0 ; DBSIZE") == reply * 3)
        harness.router.failure = NamedErrorThrown(.deadlineExceeded, "no leader in time")
        #expect(harness.run("SET a 1 ; DBSIZE") == "-TRYAGAIN no leader in time\r\n" * 2)
        harness.router.failure = NamedErrorThrown(.notAnInteger, "of no interest")
        #expect(harness.run("INCR a") == "-ERR value is not an integer or out of range\r\n")
    }

    @Test func anErrorOfSomeKeysSaysOfHowMany() {
        let done = KeyResult(integer: 1)
        let (refused, unknown) = (KeyResult.failure(.busy), KeyResult.failure(.outcomeUnknown, "the answer was lost"))
        func text(_ results: [KeyResult]) -> String? {
            if case .error(let refusal) = ReplyForm.sum.reply(results[...]) { refusal.text } else { nil }
        }
        #expect(text([done, done]) == nil)
        #expect(text([refused, refused]) == "BUSY the server is overloaded; try again later")
        #expect(
            text([done, refused, done])
                == "BUSY the server is overloaded; try again later (1 of 3 keys; the others were done)")
        // who reads only the first word must not take it for not executed
        #expect(text([refused, unknown]) == "UNKNOWN the answer was lost")
        #expect(text([refused, unknown, done]) == "UNKNOWN the answer was lost (2 of 3 keys; the others were done)")
    }
}

@Suite("Scans")
struct ScanTests {
    private func keys(_ harness: Harness, _ options: String) -> (keys: [String], steps: Int) {
        var keys: [String] = []
        var cursor = "0"
        var steps = 0
        repeat {
            let lines = harness.run("SCAN \(cursor) \(options)").split(separator: "\r\n").map(String.init)
            guard lines.count >= 4, steps < 100 else { return (lines, steps) }
            cursor = lines[2]
            keys += stride(from: 5, to: lines.count, by: 2).map { lines[$0] }
            steps += 1
        } while cursor != "0"
        return (keys, steps)
    }

    @Test func aScanVisitsEveryKeyOnceInOrder() {
        let harness = Harness()
        for key in 100..<195 { _ = harness.run("SET key\(key) v") }
        let all = (100..<195).map { "key\($0)" }
        #expect(keys(harness, "") == (all, 10))
        #expect(keys(harness, "COUNT 95") == (all, 1))
        #expect(keys(harness, "COUNT 94 TYPE STRING") == (all, 2))
        #expect(keys(harness, "MATCH *19? COUNT 50") == (all.filter { $0.hasPrefix("key19") }, 2))
        #expect(keys(harness, "TYPE hash") == ([], 1))
        #expect(harness.run("DBSIZE") == ":95\r\n")
    }

    @Test func anUnknownCursorIsInvalid() {
        let harness = Harness(RedisServer.Settings(maxScanCursors: 1))
        _ = harness.run("MSET a 1 b 2 c 3")
        let cursors = (0..<2).map { _ in harness.run("SCAN 0 COUNT 1").split(separator: "\r\n")[2] }
        #expect(cursors[0] != cursors[1])
        #expect(harness.run("SCAN \(cursors[0])") == "-ERR invalid cursor\r\n")
        let rest = "*2\r\n$1\r\n0\r\n*2\r\n$1\r\nb\r\n$1\r\nc\r\n"
        #expect(harness.run("SCAN \(cursors[1]) ; SCAN \(cursors[1])") == rest * 2)
        for cursor in ["-1", "", "0x1", "18446744073709551615", "99999999999999999999999"] {
            #expect(harness.run("SCAN \"\(cursor)\"") == "-ERR invalid cursor\r\n")
        }
    }
}

func ok(_ count: Int) -> String { "+OK\r\n" * count }

func * (text: String, count: Int) -> String { String(repeating: text, count: count) }
