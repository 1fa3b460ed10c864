import CMessages
import CProtobufC
import RaftCore
import Testing
import WireMessages

@testable import Transport

/// The frames that braft's peers exchange, byte for byte.
@Suite("baidu_std test vectors")
struct VectorTests {
    let codec = FrameCodec()

    static let preVoteBody = hex(
        """
        0a 02 67 31 12 11 "10.0.0.1:8100:0:0" 1a 11 "10.0.0.2:8100:0:0" 20 02 28 01 30 07
        """)
    static let preVote = joined([
        hex("50 52 50 43 00 00 00 51 00 00 00 21"),
        hex("0a 1d 0a 11 \"braft.RaftService\" 12 08 \"pre_vote\" 20 01"), preVoteBody,
    ])
    static let appendBody = joined([
        hex("0a 02 67 31 12 11 \"10.0.0.1:8100:0:0\" 1a 11 \"10.0.0.2:8100:0:0\" 20 02 28 01 30 07"),
        hex("3a 3f 08 02 10 03 1a 11 \"10.0.0.1:8100:0:0\" 1a 11 \"10.0.0.2:8100:0:0\""),
        hex("1a 11 \"10.0.0.3:8100:0:0\" 20 00 3a 06 08 02 10 02 20 05 40 07"),
    ])
    static let append = joined([
        hex("50 52 50 43 00 00 00 a9 00 00 00 29"),
        hex("0a 23 0a 11 \"braft.RaftService\" 12 0e \"append_entries\" 20 02 28 05"), appendBody, Bytes("hello"),
    ])

    @Test("V1: a pre_vote request") func preVoteRequest() {
        let frame = codec.request("braft.RaftService", "pre_vote", id: 1, body: VectorTests.preVoteBody)
        #expect(frame.count == 93)
        #expect(frame == VectorTests.preVote)
    }

    @Test("V2: a granted answer, packed from a message") func grantedAnswer() {
        var message = Braft__RequestVoteResponse()
        braft__request_vote_response__init(&message)
        message.term = 1
        message.granted = 1
        (message.has_disrupted, message.disrupted) = (1, 0)
        (message.has_previous_term, message.previous_term) = (1, 1)
        (message.has_rejected_by_lease, message.rejected_by_lease) = (1, 0)
        let connection = NotedConnection()
        let handler = server { _, request in
            request.responder.reply(&message)
            return true
        }.makeHandler()
        feed(VectorTests.preVote, cutAt: [], to: handler, on: connection)
        let expected = hex("50 52 50 43 00 00 00 10 00 00 00 06 12 02 08 00 20 01 08 01 10 01 18 00 20 01 28 00")
        #expect(connection.sent.first == expected)
    }

    @Test("V2: the same answer with the metadata that brpc 1.17 sends") func grantedAnswerOfBrpc() {
        let frame = joined([
            hex("50 52 50 43 00 00 00 18 00 00 00 0e 12 02 08 00 18 00 20 01 50 00 58 00 62 00"),
            hex("08 01 10 01 18 00 20 01 28 00"),
        ])
        #expect(answer(to: frame)?.reply?.body == hex("08 01 10 01 18 00 20 01 28 00"))
    }

    @Test("V3: an error answer is metadata only, its text decorated") func errorAnswer() {
        let expected = hex(
            "50 52 50 43 00 00 00 2c 00 00 00 2c 12 28 08 02 12 24 \"[10.0.0.2:8100][E2]peer_id not exist\" 20 01")
        let connection = NotedConnection()
        let handler = server { _, request in
            request.responder.fail(2, "peer_id not exist")
            return true
        }.makeHandler()
        feed(VectorTests.preVote, cutAt: [], to: handler, on: connection)
        #expect(connection.sent == [expected])
        guard case .failed(let error) = answer(to: expected) else {
            Issue.record("an error answer must fail the call")
            return
        }
        #expect(error == RpcError(code: 2, text: "[10.0.0.2:8100][E2]peer_id not exist"))
    }

    @Test("V4: append_entries with an attachment, both ways") func appendEntries() {
        let frame = codec.request(
            "braft.RaftService", "append_entries", id: 2, body: VectorTests.appendBody, attachment: Bytes("hello"))
        #expect(frame.count == 181)
        #expect(frame == VectorTests.append)
        var names: [String] = []
        var parts: [Bytes] = []
        let handler = server { method, request in
            names += [request.service, request.method, method]
            parts += [request.body, request.attachment]
            return true
        }.makeHandler()
        feed(VectorTests.append, cutAt: [], to: handler, on: NotedConnection())
        #expect(names == ["braft.RaftService", "append_entries", "append_entries"])
        #expect(parts == [VectorTests.appendBody, Bytes("hello")])
    }

    @Test("-1 travels as 2001") func minusOne() {
        let connection = NotedConnection()
        let handler = server { _, request in
            request.responder.fail(-1, "x")
            return true
        }.makeHandler()
        feed(VectorTests.preVote, cutAt: [], to: handler, on: connection)
        #expect(answer(to: connection.sent[0])?.code == RpcCode.internalError)
    }

    private func server(_ service: @escaping RpcServer.Service) -> RpcServer {
        let server = RpcServer(address: nodeAddress)
        server.register("braft.RaftService", service)
        return server
    }

    /// What the first call of a channel makes of an answer.
    private func answer(to frame: Bytes) -> RpcResult? {
        let network = NotedNetwork()
        let channel = RpcChannel(address: nodeAddress, network: network, clock: SetClock())
        var result: RpcResult?
        channel.call(service: "a.B", method: "m", body: Bytes()) { result = $0 }
        network.open(0)
        #expect(network.receive(frame, 0).consumed == frame.count)
        return result
    }
}

@Suite("Cutting frames out of a stream")
struct StreamTests {
    let codec = FrameCodec()

    /// Several frames, with and without bodies and attachments.
    private var stream: Bytes {
        joined([
            VectorTests.preVote, codec.request("braft.RaftService", "empty", id: 7), VectorTests.append,
            codec.request("RaftService", "short", id: -1, body: Bytes("b"), attachment: Bytes("attached")),
        ])
    }

    /// Everything a server's services see of `stream`, cut as told.
    private func seen(cutAt cuts: [Int]) -> [String] {
        var seen: [String] = []
        let server = RpcServer(address: nodeAddress)
        server.register("braft.RaftService") { method, request in
            seen.append("\(request.service) \(method) \(request.body) \(request.attachment)")
            request.responder.reply(body: request.body)
            return true
        }
        let connection = NotedConnection()
        feed(stream, cutAt: cuts, to: server.makeHandler(), on: connection)
        return seen + connection.sent.map(\.description) + [connection.closeReason ?? "open"]
    }

    @Test("Every way to cut the stream in two gives the same requests and answers") func everySplit() {
        let whole = seen(cutAt: [])
        #expect(whole.count > 8)
        #expect(whole.last == "open")
        for cut in 1..<stream.count where seen(cutAt: [cut]) != whole {
            Issue.record("cut at \(cut): another result")
        }
    }

    @Test("Byte by byte, and at random places in many pieces") func manySplits() {
        let whole = seen(cutAt: [])
        #expect(seen(cutAt: Array(1..<stream.count)) == whole)
        var random = SeededRandom(seed: 1)
        for _ in 0..<300 {
            let cuts = (0..<8).map { _ in Int(random.number(in: 1..<Int64(stream.count))) }.sorted()
            #expect(seen(cutAt: cuts) == whole)
        }
    }

    @Test("An unfinished frame says how large it will be") func neededBytes() {
        let handler = RpcServer(address: nodeAddress).makeHandler()
        let connection = NotedConnection()
        for count in 4..<12 {
            let begun = handler.received(VectorTests.append.slice(from: 0, count: count), on: connection)
            #expect(begun.consumed == 0 && begun.needed == 0)
        }
        let known = handler.received(VectorTests.append.slice(from: 0, count: 12), on: connection)
        #expect(known.consumed == 0 && known.needed == 181)
    }

    @Test(
        "Frames that cannot be followed close the connection",
        arguments: [
            ("another magic", "50 52 50 44"), ("too large", "50 52 50 43 04 00 00 01 00 00 00 00"),
            ("metadata larger than the body", "50 52 50 43 00 00 00 01 00 00 00 02"),
            ("metadata that is none", "50 52 50 43 00 00 00 02 00 00 00 02 0a ff"),
            ("no method name", "50 52 50 43 00 00 00 05 00 00 00 05 0a 03 0a 01 61"),
        ])
    func malformed(_ what: String, _ frame: String) {
        let connection = NotedConnection()
        feed(hex(frame), cutAt: [], to: RpcServer(address: nodeAddress).makeHandler(), on: connection)
        #expect(connection.closeReason != nil, "\(what)")
        #expect(connection.sent.isEmpty)
    }

    @Test("A body of exactly 64 MiB is waited for") func largestBody() {
        let connection = NotedConnection()
        let handler = RpcServer(address: nodeAddress).makeHandler()
        let begun = handler.received(hex("50 52 50 43 04 00 00 00 00 00 00 00"), on: connection)
        #expect(begun.needed == 12 + (64 << 20))
        #expect(connection.closeReason == nil)
    }
}

@Suite("Refusals of a server")
struct RefusalTests {
    let codec = FrameCodec()

    private func code(of frame: Bytes, stopping: Bool = false) -> Int32? {
        let server = RpcServer(address: nodeAddress)
        server.isStopping = stopping
        server.register("a.Known") { method, request in
            guard method == "m" else { return false }
            request.responder.reply(body: Bytes())
            return true
        }
        let connection = NotedConnection()
        feed(frame, cutAt: [], to: server.makeHandler(), on: connection)
        #expect(connection.closeReason == nil)
        guard let sent = connection.sent.first,
            case .frame(let answer) = Frame.next(in: sent, at: 0, bodyBytesMax: 1 << 20)
        else { return nil }
        return codec.decodeMeta(of: answer) { $0.response.pointee.error_code }
    }

    @Test func knownService() {
        #expect(code(of: codec.request("a.Known", "m")) == 0)
        #expect(code(of: codec.request("Known", "m")) == 0)
    }

    @Test("1001 for an unknown short name, 1002 for a full one and for a method") func unknownNames() {
        #expect(code(of: codec.request("Nobody", "m")) == RpcCode.noService)
        #expect(code(of: codec.request("", "m")) == RpcCode.noService)
        #expect(code(of: codec.request("a.Nobody", "m")) == RpcCode.noMethod)
        #expect(code(of: codec.request("a.Known", "x")) == RpcCode.noMethod)
    }

    @Test("1001 without a request part") func noRequest() {
        #expect(code(of: hex("50 52 50 43 00 00 00 02 00 00 00 02 20 01")) == RpcCode.noService)
        #expect(code(of: hex("50 52 50 43 00 00 00 00 00 00 00 00")) == RpcCode.noService)
    }

    @Test("1003 for an attachment that does not fit, and for what we do not speak") func badRequests() {
        let name = "0a 0c 0a 07 \"a.Known\" 12 01 \"m\" 20 01"
        #expect(code(of: hex("50 52 50 43 00 00 00 12 00 00 00 12 \(name) 28 01")) == RpcCode.badRequest)
        #expect(code(of: hex("50 52 50 43 00 00 00 12 00 00 00 12 \(name) 18 01")) == RpcCode.badRequest)
        #expect(code(of: hex("50 52 50 43 00 00 00 12 00 00 00 12 \(name) 58 01")) == RpcCode.badRequest)
        #expect(code(of: hex("50 52 50 43 00 00 00 12 00 00 00 12 \(name) 50 01")) == RpcCode.badRequest)
        #expect(code(of: hex("50 52 50 43 00 00 00 12 00 00 00 12 \(name) 58 00")) == 0)
    }

    @Test("2003 while stopping") func stopping() {
        #expect(code(of: codec.request("a.Known", "m"), stopping: true) == RpcCode.stopping)
    }
}

@Suite("Mutated streams")
struct FuzzTests {
    private static let runs = 60_000

    /// A valid stream with a few bytes changed, removed, doubled or cut off.
    private func mutated(_ stream: [UInt8], _ random: inout SeededRandom) -> Bytes {
        var bytes = stream
        for _ in 0...random.number(in: 0..<4) where !bytes.isEmpty {
            let place = Int(random.number(in: 0..<Int64(bytes.count)))
            switch random.number(in: 0..<5) {
            case 0: bytes[place] = UInt8(truncatingIfNeeded: random.next())
            case 1: bytes[place] ^= 1 << UInt8(random.number(in: 0..<8))
            case 2: bytes.remove(at: place)
            case 3: bytes.insert(bytes[place], at: place)
            default: bytes.removeSubrange(place...)
            }
        }
        return Bytes(bytes)
    }

    @Test("A server answers or closes, and never consumes more than there is") func server() {
        let codec = FrameCodec()
        let server = RpcServer(address: nodeAddress)
        server.register("a.S") { method, request in
            request.responder.reply(body: request.body, attachment: [request.attachment])
            return method != "none"
        }
        let valid = joined([
            codec.request("a.S", "m", id: 5, body: Bytes("body"), attachment: Bytes("att")), codec.request("S", "n"),
        ]).array
        var random = SeededRandom(seed: 20)
        var (answered, closed) = (0, 0)
        for _ in 0..<FuzzTests.runs {
            let stream = mutated(valid, &random)
            let connection = NotedConnection()
            let cut = Int(random.number(in: 0..<Int64(stream.count + 1)))
            feed(stream, cutAt: [cut], to: server.makeHandler(), on: connection)
            if !connection.sent.isEmpty { answered += 1 }
            if connection.closeReason != nil { closed += 1 }
        }
        #expect(answered > 1000 && closed > 1000)
    }

    @Test("A channel gives its call one outcome at most, and closes what it cannot follow") func channel() {
        let codec = FrameCodec()
        let valid = joined([
            codec.reply(id: 1, body: Bytes("body"), attachment: Bytes("att")),
            hex("50 52 50 43 00 00 00 2c 00 00 00 2c 12 28 08 02 12 24 \"[10.0.0.2:8100][E2]peer_id not exist\" 20 02"),
        ]).array
        var random = SeededRandom(seed: 21)
        var (answered, closed) = (0, 0)
        for _ in 0..<FuzzTests.runs {
            let stream = mutated(valid, &random)
            let network = NotedNetwork()
            let channel = RpcChannel(address: nodeAddress, network: network, clock: SetClock())
            var outcomes = [0, 0]
            for call in 0..<2 { channel.call(service: "a.S", method: "m", body: Bytes()) { _ in outcomes[call] += 1 } }
            network.open(0)
            let (connection, handler) = network.attempts[0]
            feed(stream, cutAt: [], to: handler, on: connection)
            #expect(outcomes.allSatisfy { $0 <= 1 })
            if outcomes[0] == 1 { answered += 1 }
            if connection.closeReason != nil {
                closed += 1
                #expect(outcomes == [1, 1])
            }
        }
        #expect(answered > 1000 && closed > 1000)
    }
}
