import RaftCore
import ShardMap
import Testing

@testable import Gateway

@Suite("Rounds and their order")
struct RoundTests {
    @Test func whatCameTogetherIsOneRoundAndOneReply() {
        let harness = Harness()
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("SET a 1 ; PING ; MGET a b ; foo ; DEL a b"))
        #expect(harness.sent() == "")
        #expect(harness.router.rounds.map { $0.map(\.code) } == [[.set, .get, .get, .delete, .delete]])
        #expect(harness.router.deadlines == [harness.clock.now + .milliseconds(10_000)])
        harness.release()
        #expect(harness.connection.pieces.count == 1)
        #expect(
            harness.sent() == "+OK\r\n+PONG\r\n*2\r\n$1\r\n1\r\n$-1\r\n"
                + "-ERR unknown command 'foo', with args beginning with: \r\n:1\r\n")
    }

    @Test func aRoundWaitsForTheOneBefore() {
        let harness = Harness(RedisServer.Settings(roundSize: 2))
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("INCR a ; INCR a ; INCR a ; PING ; INCR a"))
        harness.feed(Harness.encoded("PING last"))
        for expected in [":1\r\n:2\r\n", ":3\r\n+PONG\r\n", ":4\r\n$4\r\nlast\r\n"] {
            #expect(harness.router.heldCount == 1)
            #expect(harness.sent() == "")
            harness.release()
            #expect(harness.sent() == expected)
        }
        #expect(harness.router.rounds.map(\.count) == [2, 1, 1])
    }

    @Test func aRoundOfManyOperationsTakesNoFurtherCommand() {
        let harness = Harness(RedisServer.Settings(roundSize: 5))
        #expect(harness.run("MGET a b c ; MGET a b c ; GET a ; PING").hasSuffix("$-1\r\n+PONG\r\n"))
        #expect(harness.router.rounds.map(\.count) == [6, 1])
    }

    @Test func scansAndCountsHaveRoundsOfTheirOwn() {
        let harness = Harness()
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("SET a 1 ; DBSIZE ; SCAN 0 ; SET b 2 ; PING"))
        let expected = ["+OK\r\n", ":1\r\n", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", "+OK\r\n+PONG\r\n"]
        for reply in expected {
            #expect(harness.router.heldCount == 1)
            harness.release()
            #expect(harness.sent() == reply)
        }
    }

    @Test func manyPipelinedCommandsKeepTheirOrderHoweverTheyArriveAndComplete() {
        var random = SeededRandom(seed: 11)
        for _ in 0..<50 {
            let harness = Harness(RedisServer.Settings(maxPendingCommands: 20, roundSize: 7))
            var stream: [UInt8] = []
            var expected = ""
            for number in 1...200 {
                switch random.number(in: 0..<4) {
                case 0:
                    stream += Harness.encoded("ECHO \(number)")
                    expected += "$\(String(number).count)\r\n\(number)\r\n"
                case 1:
                    stream += Harness.encoded("DBSIZE")
                    expected += ":1\r\n"
                default:
                    stream += Harness.encoded("SET k \(number) ; GET k")
                    expected += "+OK\r\n$\(String(number).count)\r\n\(number)\r\n"
                }
            }
            harness.router.entries[Bytes("k")] = .init(value: Bytes("0"), expiresAt: nil)
            var position = 0
            var sent = ""
            while position < stream.count || harness.router.heldCount > 0 {
                harness.router.holdsAnswers = random.number(in: 0..<3) > 0
                if position < stream.count, random.number(in: 0..<2) == 0 {
                    let end = min(stream.count, position + Int(random.number(in: 1..<200)))
                    harness.feed(Array(stream[position..<end]))
                    position = end
                } else if harness.router.heldCount > 0 {
                    harness.release()
                }
                sent += harness.sent()
            }
            #expect(sent == expected)
        }
    }

    @Test func quitEndsTheConversationInItsTurn() {
        let harness = Harness()
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("SET a 1 ; QUIT ; SET a 2"))
        #expect(!harness.connection.isClosing)
        harness.release()
        #expect(harness.sent() == "+OK\r\n+OK\r\n")
        #expect(harness.connection.isClosing)
        #expect(harness.run("PING") == "")
        #expect(harness.router.rounds.count == 1)
    }

    @Test func aProtocolErrorIsAnsweredAfterWhatCameBeforeIt() {
        let harness = Harness(RedisServer.Settings(roundSize: 1))
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("SET a 1 ; SET b 2") + Array("*1\r\nx\r\nSET c 3\r\n".utf8))
        harness.release()
        harness.release()
        #expect(harness.sent() == "+OK\r\n+OK\r\n-ERR Protocol error: expected '$', got 'x'\r\n")
        #expect(harness.connection.isClosing)
        #expect(harness.router.entries.count == 2)
    }

    @Test func answersAreOwedUntilTheLastRoundHasHadIts() {
        let harness = Harness(RedisServer.Settings(roundSize: 1))
        #expect(!harness.owesAnswers)
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("SET a 1 ; GET a") + Array("*1\r\n$4\r\nPI".utf8))
        var owed = [harness.owesAnswers]
        while harness.router.heldCount > 0 {
            harness.release()
            owed.append(harness.owesAnswers)
        }
        #expect(owed == [true, true, false], "what is incomplete gets no answer")
        #expect(harness.sent() == "+OK\r\n$1\r\n1\r\n")
        harness.connection.unsentBytes = .max
        harness.feed("NG\r\n")
        #expect(harness.owesAnswers, "a command that waits for room in the connection")
        harness.drain()
        #expect(!harness.owesAnswers)
    }

    @Test func anAnswerAfterTheEndIsDropped() {
        let harness = Harness()
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded("SET a 1 ; DBSIZE"))
        harness.close()
        harness.router.releaseOne()
        #expect(harness.sent() == "")
        #expect(harness.router.heldCount == 0)
    }
}

@Suite("Limits of a connection")
struct LimitTests {
    @Test func anOversizedValueIsSkippedAndTheConnectionGoesOn() {
        let harness = Harness()
        let header = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$20000000\r\n"
        harness.feed(Harness.encoded("SET before 1") + Array(header.utf8))
        let piece = [UInt8](repeating: UInt8(ascii: "*"), count: 100_000)
        for _ in 0..<200 { harness.feed(piece) }
        harness.feed("\r\n")
        harness.feed(Harness.encoded("GET before ; EXISTS k"))
        #expect(harness.sent() == "+OK\r\n-ERR a value must be at most 8388608 bytes long\r\n$1\r\n1\r\n:0\r\n")
        #expect(harness.unreadMax == 0)
    }

    @Test func theLongestValueIsStoredAndSentWithoutBeingJoined() {
        let harness = Harness()
        let value = [UInt8](repeating: 3, count: KeyLimits.valueBytes)
        harness.feed(Harness.encoded(words: [Array("SET".utf8), [1], value]))
        #expect(harness.sent() == "+OK\r\n")
        harness.feed(
            Harness.encoded("PING") + Harness.encoded(words: [Array("GET".utf8), [1]]) + Harness.encoded("PING"))
        #expect(harness.connection.pieces.map(\.count) == [7 + 10, value.count, 2 + 7])
        harness.feed(Harness.encoded(words: [Array("SET".utf8), [1], value + [1]]))
        _ = harness.connection.takeSent()
        harness.feed(Harness.encoded(words: [Array("STRLEN".utf8), [1]]))
        #expect(harness.sent() == ":8388608\r\n")
    }

    @Test func aCommandWithTooMuchInItIsRefused() {
        let harness = Harness(RedisServer.Settings(maxBulkBytes: 1000, queryBufferLimit: 10_000))
        let value = [UInt8](repeating: 65, count: 900)
        let words = [Array("MSET".utf8)] + (0..<40).map { $0 % 2 == 0 ? [UInt8(65 + $0)] : value }
        harness.feed(Harness.encoded(words: words) + Harness.encoded("DBSIZE"))
        #expect(harness.sent() == "-ERR a command's arguments must be at most 10000 bytes long together\r\n:0\r\n")
    }

    @Test func readingPausesWhileTheQueueIsFull() {
        let harness = Harness(RedisServer.Settings(maxPendingCommands: 10, roundSize: 4))
        harness.router.holdsAnswers = true
        harness.feed(Harness.encoded(Array(repeating: "INCR a", count: 40).joined(separator: " ; ")))
        #expect(harness.connection.isReadingPaused)
        // Four run, ten wait, the rest stays where it is.
        #expect(harness.unreadMax == 26 * Harness.encoded("INCR a").count)
        var sent = ""
        while harness.router.heldCount > 0 {
            harness.release()
            sent += harness.sent()
        }
        #expect(sent == (1...40).map { ":\($0)\r\n" }.joined())
        #expect(!harness.connection.isReadingPaused)
        #expect(harness.router.rounds.allSatisfy { $0.count <= 4 })
    }

    @Test func readingPausesWhileManyBytesWait() {
        let harness = Harness(RedisServer.Settings(maxBulkBytes: 500, queryBufferLimit: 1000))
        harness.router.holdsAnswers = true
        let value = String(repeating: "v", count: 400)
        harness.feed(Harness.encoded("SET a 1"))
        for _ in 0..<10 { harness.feed(Harness.encoded("SET a \(value)")) }
        #expect(harness.connection.isReadingPaused)
        while harness.router.heldCount > 0 { harness.release() }
        #expect(harness.sent() == ok(11))
        #expect(!harness.connection.isReadingPaused)
    }

    @Test func aClientThatDoesNotReadIsNotServedOn() {
        let harness = Harness(RedisServer.Settings(maxUnsentBytes: 100))
        harness.connection.unsentBytes = 101
        #expect(harness.run("PING ; SET a 1") == "")
        #expect(harness.connection.isReadingPaused)
        #expect(harness.router.rounds.isEmpty)
        harness.drain()
        #expect(harness.sent() == "+PONG\r\n+OK\r\n")
        #expect(!harness.connection.isReadingPaused)
    }
}

@Suite("Arbitrary input")
struct FuzzTests {
    private static let fragments: [[UInt8]] =
        [
            "*", "$", "\r\n", "\n", "\r", "0", "1", "2", "3", "-1", "9", "12", "1000", "\"", "'", "\\x", " ",
            "*1\r\n$4\r\nPING\r\n",
            "*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "*3\r\n$3\r\nSET\r\n", "$1\r\na\r\n", "$2\r\nEX\r\n", "$600\r\n", "SCAN",
            "0", "COUNT",
            "MATCH", "[a-", "SET k v PX 9", "CLIENT", "SETNAME", "HELLO 3", "COMMAND", "INFO", "CONFIG GET *",
            "EXPIRE a -",
            "DECRBY a ", "9223372036854775808", "MSET a 1", "DEL a b", "RESET\n", "$536870912\r\n", "*1048576\r\n",
            "\u{0}",
        ].map { Array($0.utf8) }

    @Test func noInputStopsTheServerOrGrowsWithoutBound() {
        let settings = RedisServer.Settings(
            maxBulkBytes: 512, maxArguments: 64, maxPendingCommands: 8, roundSize: 4, queryBufferLimit: 4096)
        let harness = Harness(settings)
        for seed in 0..<100_000 {
            var random = SeededRandom(seed: UInt64(seed))
            harness.reconnect()
            for _ in 0..<random.number(in: 1..<4) {
                var input: [UInt8] = []
                for _ in 0..<random.number(in: 1..<12) {
                    if random.number(in: 0..<8) == 0 {
                        input.append(UInt8(truncatingIfNeeded: random.next()))
                    } else {
                        input += FuzzTests.fragments[Int(random.number(in: 0..<Int64(FuzzTests.fragments.count)))]
                    }
                }
                harness.feed(input)
            }
            for piece in harness.connection.pieces where piece.count > 1 << 20 {
                Issue.record("a reply of \(piece.count)")
            }
        }
        #expect(harness.router.rounds.count > 10_000)
        // Never more than one incomplete line or bulk stays with the transport.
        #expect(harness.unreadMax <= 514)
    }
}
