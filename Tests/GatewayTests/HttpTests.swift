import CMessages
import CProtobufC
import Glibc
import RaftCore
import Testing
import Transport
import WireMessages

@testable import Gateway

/// A server with a few services, one connection to it, and the part of a transport that presents what is not consumed.
private final class HttpHarness {
    let rpc = RpcServer(address: NodeAddress(ip: 10 << 24 | 2, port: 8100))
    let server: HttpServer
    let clock = ManualClock()
    private let sweep: DeadlineSweep
    var connection = FakeConnection()
    /// Requests of add_peer, which nobody answers by themselves.
    var held: [RpcRequest] = []
    /// Methods of other services that were called.
    var calls: [String] = []
    private var handler: any ConnectionHandler
    private var unread: [UInt8] = []
    private let arena = Arena()

    init(_ settings: HttpServer.Settings = HttpServer.Settings()) {
        sweep = DeadlineSweep(clock: clock)
        server = HttpServer(
            rpc: rpc, settings: settings, sweep: sweep, version: "1.2.3", status: { "# Server\nup: yes\n" },
            metrics: { "up 1\n" })
        handler = server.makeHandler()
        rpc.register("braft.CliService") { [unowned self] method, request in
            switch method {
            case "get_leader":
                answerGetLeader(request)
            case "add_peer": held.append(request)
            default: return false
            }
            return true
        }
        rpc.register("braft.raft_stat") { method, request in
            request.responder.reply(body: Bytes(), attachment: [Bytes("stat of \(request.path)")])
            return true
        }
        rpc.register("flotilla.KvService") { method, request in
            request.responder.reply(body: Bytes(), attachment: [Bytes("raw")])
            return true
        }
        for service in ["braft.RaftService", "flotilla.NodeService", "flotilla.ClusterService"] {
            rpc.register(service) { [unowned self] method, request in
                calls.append(method)
                request.responder.reply(body: Bytes())
                return true
            }
        }
    }

    private func answerGetLeader(_ request: RpcRequest) {
        arena.scope { arena in
            guard let message = arena.unpack(braft__get_leader_request__init, request.body) else {
                return request.responder.fail(RpcCode.badRequest, "malformed")
            }
            let group = String(field: message.pointee.group_id)
            if let code = Int32(group) { return request.responder.fail(code, "as asked for") }
            let reply = arena.make(braft__get_leader_response__init)
            reply.pointee.leader_id = arena.string("leader of \(group)")
            request.responder.reply(reply)
        }
    }

    func feed(_ text: String) { feed(Array(text.utf8)) }

    func feed(_ bytes: [UInt8]) {
        unread += bytes
        present()
    }

    /// How many of `bytes` are consumed.
    func feed(_ bytes: Bytes) -> Int { handler.received(bytes, on: connection).consumed }

    func present() {
        guard !connection.isReadingPaused, !unread.isEmpty else { return }
        let consumption = handler.received(Bytes(unread), on: connection)
        unread.removeFirst(consumption.consumed)
    }

    func sent() -> String { String(decoding: connection.takeSent(), as: UTF8.self) }

    var unreadCount: Int { unread.count }

    func responses(to text: String) -> String {
        feed(text)
        return sent()
    }

    func post(_ path: String, _ body: String, headers: String = "") -> Answer {
        Answer(responses(to: "POST \(path) HTTP/1.1\r\n\(headers)Content-Length: \(body.utf8.count)\r\n\r\n\(body)"))
    }

    func get(_ path: String, headers: String = "") -> Answer {
        Answer(responses(to: "GET \(path) HTTP/1.1\r\n\(headers)\r\n"))
    }

    /// Lets time pass, as a lane does.
    func wait(_ time: Interval) {
        let end = clock.now + time
        while let next = sweep.turn(now: clock.now), next <= end { clock.now = next }
        clock.now = end
        _ = sweep.turn(now: clock.now)
    }

    /// Whether anything waits for its time to be over.
    var isWaiting: Bool { sweep.turn(now: clock.now) != nil }

    func endInput() { handler.inputEnded(connection) }
    func close() { handler.closed(connection, reason: "test") }
    func drain() { handler.drained(connection) }
    var owesAnswers: Bool { handler.owesAnswers }
}

private struct Answer: CustomStringConvertible {
    var status: Int
    var headers: [String]
    var body: String
    var description: String { "\(status) \(headers) \(body)" }

    init(_ text: String) {
        let parts = text.split(separator: "\r\n\r\n", maxSplits: 1, omittingEmptySubsequences: false)
        headers = (parts.first ?? "").split(separator: "\r\n").map { $0.lowercased() }
        status = headers.first.flatMap { Int($0.split(separator: " ").dropFirst().first ?? "") } ?? 0
        body = parts.count > 1 ? String(parts[1]) : ""
    }

    func has(_ header: String) -> Bool { headers.contains(header) }
}

@Suite("Services over HTTP") struct HttpServiceTests {
    @Test(arguments: ["/CliService/get_leader", "/braft.CliService/get_leader", "/CliService/get_leader/more?a=b"])
    func aMethodIsCalledByItsPath(path: String) {
        let harness = HttpHarness()
        let answer = harness.post(path, #"{"group_id":"g1"}"#)
        #expect(answer.status == 200 && answer.body == #"{"leader_id":"leader of g1"}"#, "\(answer)")
        #expect(answer.has("content-type: application/json") && answer.has("content-length: 28"), "\(answer)")
        #expect(!harness.connection.isClosing)
    }

    @Test(arguments: ["", "application/json", "application/x-www-form-urlencoded", "text/plain; charset=utf-8"])
    func whateverTheContentIsCalledItIsJson(type: String) {
        let answer = HttpHarness().post(
            "/CliService/get_leader", #"{"group_id":"g1"}"#, headers: type.isEmpty ? "" : "Content-Type: \(type)\r\n")
        #expect(answer.status == 200 && answer.has("content-type: application/json"), "\(answer)")
    }

    @Test(arguments: ["application/proto", "application/x-protobuf", "Application/X-Protobuf; messageType=x"])
    func packedMessagesAreTakenAndGiven(type: String) {
        let answer = HttpHarness().post(
            "/CliService/get_leader", "\u{0a}\u{02}g1", headers: "Content-Type: \(type)\r\n")
        #expect(answer.status == 200 && answer.body == "\u{0a}\u{0c}leader of g1", "\(answer)")
        #expect(answer.headers.contains { $0.hasPrefix("content-type: application/") && !$0.contains("json") })
    }

    @Test(arguments: ["application/proto-text", "application/proto-json"])
    func otherFormsAreRefused(type: String) {
        let answer = HttpHarness().post("/CliService/get_leader", "x", headers: "Content-Type: \(type)\r\n")
        #expect(answer.status == 415)
        #expect(HttpHarness().post("/CliService/get_leader", "x", headers: "Content-Encoding: gzip\r\n").status == 415)
    }

    @Test(arguments: [
        (1, 403), (2, 500), (11, 500), (13, 500), (16, 500), (22, 400), (110, 504), (1001, 404), (1002, 404),
        (1003, 400), (1004, 401), (1008, 504), (2003, 503), (2004, 503), (10003, 500),
    ])
    func anErrorHasItsStatusAndItsNumber(code: Int, status: Int) {
        let harness = HttpHarness()
        let answer = harness.post("/CliService/get_leader", #"{"group_id":"\#(code)"}"#)
        #expect(answer.status == status && answer.has("x-bd-error-code: \(code)"), "\(answer)")
        #expect(answer.body == "[10.0.0.2:8100][E\(code)]as asked for" && answer.has("content-type: text/plain"))
        #expect(harness.get("/health").status == 200, "the connection goes on")
    }

    @Test(arguments: [
        ("/NoService/get_leader", 1002), ("/no.Service/get_leader", 1002), ("/CliService/no_method", 1002),
        ("/CliService", 1002), ("/NoService", 1002),
    ])
    func whatIsNotThereIsTold(path: String, code: Int) {
        let answer = HttpHarness().post(path, "{}")
        #expect(answer.status == 404 && answer.has("x-bd-error-code: \(code)"), "\(answer)")
    }

    @Test func aRequiredFieldThatIsMissingIsABadRequest() {
        for body in ["", "{}", #"{"group_id":null}"#] {
            let answer = HttpHarness().post("/CliService/get_leader", body)
            #expect(answer.status == 400 && answer.has("x-bd-error-code: 1003"), "\(answer)")
            #expect(answer.body.hasSuffix("Missing required field: braft.GetLeaderRequest.group_id"), "\(answer)")
        }
        #expect(HttpHarness().get("/CliService/get_leader").status == 400)
    }

    @Test func aTextIsTheAnswerOfAServiceWithoutFields() {
        for (path, text) in [("/raft_stat", ""), ("/raft_stat/g1", "g1"), ("//raft_stat//a/%62%2Fc/", "a/b/c")] {
            let answer = HttpHarness().get(path)
            #expect(answer.status == 200 && answer.body == "stat of \(text)", "\(answer)")
            #expect(answer.has("content-type: text/plain"))
        }
    }

    @Test func rawBytesBesideAMessageAreRefused() {
        let answer = HttpHarness().post("/KvService/execute", "", headers: "Content-Type: application/proto\r\n")
        #expect(answer.status == 400 && answer.body.contains("only baidu_std can carry"), "\(answer)")
    }

    @Test func thePagesAreThere() {
        let harness = HttpHarness()
        #expect(harness.get("/health").body == "OK")
        #expect(harness.get("/version").body == "1.2.3")
        #expect(harness.get("/status").body == "# Server\nup: yes\n")
        #expect(harness.get("/metrics").body == "up 1\n")
        #expect(harness.get("/").body.contains("/raft_stat"))
        let list = harness.get("/list").body
        #expect(list.contains("braft.CliService\n  add_peer\n  change_peers\n") && list.contains("  default_method\n"))
        // neither the methods of services that are not here nor those for nodes are listed
        #expect(!list.contains("SnapshotService") && list.contains("RaftService") && !list.contains("NodeService"))
        #expect(list.contains("flotilla.ClusterService\n  get_map\n") && !list.contains("create_replica"))
    }

    @Test(arguments: [
        "/NodeService/hello", "/flotilla.NodeService/hello", "/ClusterService/order", "/ClusterService/load",
    ])
    func whatIsForNodesIsNotThere(path: String) {
        for type in ["application/json", "application/proto"] {
            let harness = HttpHarness()
            let answer = harness.post(path, "", headers: "Content-Type: \(type)\r\n")
            #expect(answer.status == 404 && answer.has("x-bd-error-code: 1002"), "\(answer)")
            #expect(harness.calls.isEmpty && harness.connection.context == nil)
        }
        let harness = HttpHarness()
        #expect(harness.post("/ClusterService/status", "").status != 404 && harness.calls == ["status"])
        let vote =
            "{\"group_id\":\"g\",\"server_id\":\"a\",\"peer_id\":\"b\",\"term\":1,\"last_log_term\":1,\"last_log_index\":1}"
        #expect(harness.post("/RaftService/pre_vote", vote).status != 404 && harness.calls == ["status", "pre_vote"])
    }

    /// A browser can be made to send a request without a body for any page.
    @Test func whatNeedsNoBodyChangesNothing() {
        let catalog = ServiceCatalog()
        var bodiless: [String] = []
        for service in catalog.names {
            for name in catalog.openMethods(of: service) {
                guard let descriptor = catalog.method(service, name)?.request.pointee else { continue }
                let fields = UnsafeBufferPointer(start: descriptor.fields, count: Int(descriptor.n_fields))
                let needsBody = fields.contains { $0.label == PROTOBUF_C_LABEL_REQUIRED }
                if !needsBody { bodiless.append(name) }
            }
        }
        let harmless = ["default_method", "get_map", "list", "list_operations", "metrics", "schedule", "status"]
        #expect(bodiless.sorted() == harmless)
    }

    @Test func aPageOfAnotherSiteIsRefused() {
        let harness = HttpHarness()
        let headers = { (origin: String) in "Host: 127.0.0.1:8100\r\nOrigin: \(origin)\r\n" }
        let own = { (host: String) in "Host: \(host)\r\nOrigin: http://\(host)\r\n" }
        #expect(harness.get("/health", headers: headers("http://evil.example")).status == 403)
        #expect(harness.get("/health", headers: headers("null")).status == 403)
        #expect(harness.get("/health", headers: headers("http://127.0.0.1:8100")).status == 200)
        #expect(harness.get("/health", headers: own("localhost:8100")).status == 200)
        // a name can be made to mean this node by whoever owns it
        #expect(harness.get("/health", headers: own("evil.example:8100")).status == 403)
        #expect(harness.get("/health", headers: own("127.0.0.1.evil.example")).status == 403)
    }
}

@Suite("HTTP connections") struct HttpConnectionTests {
    private static let request =
        "POST /CliService/get_leader HTTP/1.1\r\nContent-Length: 17\r\n\r\n{\"group_id\":\"g1\"}"

    @Test func requestsThatComeTogetherAreAnsweredInOrder() {
        let harness = HttpHarness()
        let held = #"{"group_id":"g","leader_id":"","peer_id":"p"}"#
        harness.feed(
            "POST /CliService/add_peer HTTP/1.1\r\nContent-Length: \(held.utf8.count)\r\n\r\n\(held)"
                + Self.request + "GET /health HTTP/1.1\r\n\r\n")
        #expect(harness.sent() == "" && harness.held.count == 1 && !harness.connection.isReadingPaused)
        #expect(harness.owesAnswers)
        harness.held[0].responder.fail(16, "busy")
        let responses = harness.sent()
        let order = ["E16", "leader of g1", "\r\n\r\nOK"].map { text in responses.ranges(of: text).first?.lowerBound }
        #expect(order[0]! < order[1]! && order[1]! < order[2]! && !harness.owesAnswers, "\(responses)")
    }

    @Test func whoSendsNoMoreIsOwedWhatWasSent() {
        let harness = HttpHarness()
        let held = #"{"group_id":"g","leader_id":"","peer_id":"p"}"#
        harness.feed(
            "POST /CliService/add_peer HTTP/1.1\r\nContent-Length: \(held.utf8.count)\r\n\r\n\(held)"
                + Self.request)
        harness.endInput()
        #expect(harness.owesAnswers)
        harness.held[0].responder.fail(16, "busy")
        #expect(harness.sent().contains("leader of g1") && !harness.owesAnswers)
    }

    @Test func whoHasGoneIsNotWaitedFor() {
        let harness = HttpHarness()
        _ = harness.post("/CliService/add_peer", Self.order)
        harness.endInput()
        harness.wait(.milliseconds(900))
        #expect(!harness.connection.isClosing && harness.owesAnswers)
        harness.wait(.milliseconds(700))
        #expect(harness.connection.isClosing && harness.sent() == "")
    }

    @Test("Whoever sends no more, and has its answer, has the time to take it", arguments: [false, true])
    func slowReader(isLast: Bool) {
        let harness = HttpHarness()
        harness.feed(
            "POST /CliService/add_peer HTTP/1.\(isLast ? 0 : 1)\r\nContent-Length: \(Self.order.utf8.count)\r\n\r\n")
        harness.feed(Self.order)
        harness.endInput()
        harness.held[0].responder.fail(16, "busy")
        // it closes by itself when all is sent, which the transport sees to; the server does not end it
        let ended = harness.connection.closeReason
        #expect((ended != nil) == isLast && harness.sent().contains("E16"))
        harness.connection.unsentBytes = 9
        harness.wait(.milliseconds(55_000))
        #expect(harness.connection.closeReason == ended)
        harness.wait(.milliseconds(6000))
        #expect(harness.connection.closeReason == "an HTTP client took too long")
    }

    @Test("Answers that are still being taken are not cut off by a refusal") func refusedWhileTaking() {
        let harness = HttpHarness()
        harness.connection.unsentBytes = 9
        harness.feed("GET /health HTTP/1.1\r\n\r\nPOST /health HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n")
        #expect(harness.sent().contains("HTTP/1.1 413 "))
        harness.wait(.milliseconds(30_000))
        #expect(!harness.connection.isClosing)
        harness.connection.unsentBytes = 0
        harness.wait(.milliseconds(600))
        #expect(harness.connection.isClosing)
    }

    @Test("What is read ahead keeps no more of what was read into") func aheadIsCopied() {
        let harness = HttpHarness()
        weak var slab: Slab?
        do {
            let opening = Array(
                ("POST /CliService/add_peer HTTP/1.1\r\nContent-Length: \(Self.order.utf8.count)\r\n\r\n\(Self.order)"
                    + "GET /health HTTP/1.1\r\n\r\n").utf8)
            let whole = Slab(capacity: 64 << 10)
            opening.withUnsafeBytes { whole.base.copyMemory(from: $0.baseAddress!, byteCount: $0.count) }
            slab = whole
            #expect(harness.feed(Bytes(slab: whole, offset: 0, count: opening.count)) == opening.count)
        }
        #expect(harness.held.count == 1 && harness.owesAnswers)
        #expect(slab == nil)
        harness.held[0].responder.fail(16, "busy")
        #expect(harness.sent().hasSuffix("\r\n\r\nOK"))
    }

    @Test("However small the pieces that come behind a request being served, all are answered in order")
    func smallPieces() {
        let harness = HttpHarness()
        _ = harness.post("/CliService/add_peer", Self.order)
        for _ in 0..<3 {
            for byte in Array((Self.request + "GET /health HTTP/1.1\r\n\r\n").utf8) { harness.feed([byte]) }
            _ = harness.post("/CliService/add_peer", Self.order)
        }
        #expect(harness.sent() == "" && harness.held.count == 1)
        for round in 0..<4 {
            harness.held[round].responder.fail(16, "busy")
            let response = harness.sent()
            #expect(response.ranges(of: "E16").count == 1, "\(response)")
            #expect(response.ranges(of: "\r\n\r\nOK").count == (round < 3 ? 1 : 0), "\(response)")
        }
        #expect(!harness.owesAnswers)
    }

    private static let order = #"{"group_id":"g","leader_id":"","peer_id":"p"}"#

    @Test func whatIsReadAheadIsBounded() {
        var settings = HttpServer.Settings()
        settings.aheadBytes = 100
        let harness = HttpHarness(settings)
        _ = harness.post("/CliService/add_peer", Self.order)
        harness.feed("GET /health HTTP/1.1\r\n\r\n")
        #expect(!harness.connection.isReadingPaused)
        for _ in 0..<9 { harness.feed("GET /health HTTP/1.1\r\n\r\n") }
        #expect(harness.connection.isReadingPaused && harness.sent() == "" && harness.unreadCount == 140)
        harness.held[0].responder.fail(16, "busy")
        harness.present()
        #expect(harness.sent().ranges(of: "\r\n\r\nOK").count == 10 && !harness.connection.isReadingPaused)
    }

    @Test(arguments: [
        "POST /CliService/get_leader HTTP/1.1\r\nContent-Length: 100\r\n\r\n{", "GET /health",
        "GET /health HTTP/1.1\r\nX: ",
    ])
    func aRequestHasItsTimeToCome(start: String) {
        let harness = HttpHarness()
        harness.feed(start)
        // a byte now and then is no excuse
        for _ in 0..<29 {
            harness.wait(.milliseconds(1000))
            harness.feed("x")
        }
        #expect(harness.sent() == "" && !harness.connection.isClosing)
        harness.wait(.milliseconds(1600))
        let response = harness.sent()
        #expect(response.hasPrefix("HTTP/1.1 408 ") && response.contains("Connection: close"), "\(response)")
        // it gets to read that
        #expect(!harness.connection.isClosing && !harness.owesAnswers)
        harness.wait(.milliseconds(1600))
        #expect(harness.connection.isClosing)
    }

    @Test func eachRequestHasAllTheTime() {
        let harness = HttpHarness()
        for _ in 0..<5 {
            harness.feed("GET /hea")
            harness.wait(.milliseconds(20_000))
            #expect(harness.responses(to: "lth HTTP/1.1\r\n\r\n").hasSuffix("OK"))
            harness.wait(.milliseconds(50_000))
        }
        #expect(!harness.connection.isClosing)
    }

    @Test func anIdleConnectionCloses() {
        let harness = HttpHarness()
        #expect(harness.get("/health").status == 200)
        harness.wait(.milliseconds(59_000))
        #expect(!harness.connection.isClosing)
        harness.wait(.milliseconds(2000))
        #expect(harness.connection.isClosing && harness.sent() == "")
        #expect(harness.isWaiting)
        harness.close()
        #expect(!harness.isWaiting, "nothing wakes a node that has no clients")
    }

    @Test func anAnswerThatTakesTooLongIsGivenUp() {
        let harness = HttpHarness()
        _ = harness.post("/CliService/add_peer", Self.order)
        harness.feed(Self.request)
        harness.wait(.milliseconds(299_000))
        #expect(harness.sent() == "")
        harness.wait(.milliseconds(1600))
        let response = harness.sent()
        #expect(response.hasPrefix("HTTP/1.1 504 ") && response.contains("x-bd-error-code: 1008\r\n"), "\(response)")
        #expect(response.contains("Connection: close") && !response.contains("leader of g1"))
        // the late one is nobody's
        harness.held[0].responder.fail(16, "busy")
        #expect(harness.sent() == "")
        harness.wait(.milliseconds(1600))
        #expect(harness.connection.isClosing)
    }

    @Test func whatComesBehindARefusalIsDroppedForAWhile() {
        let harness = HttpHarness()
        let response = harness.responses(to: "POST /health HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n")
        #expect(response.hasPrefix("HTTP/1.1 413 ") && response.contains("Connection: close"))
        for _ in 0..<100 { harness.feed([UInt8](repeating: 0x78, count: 10_000)) }
        #expect(harness.unreadCount == 0 && !harness.connection.isReadingPaused && !harness.connection.isClosing)
        #expect(harness.sent() == "" && !harness.owesAnswers)
        harness.wait(.milliseconds(1600))
        #expect(harness.connection.isClosing)
    }

    @Test func howAStreamIsCutMakesNoDifference() {
        let stream = Array(
            (Self.request + "\r\n" + "GET /health HTTP/1.1\r\nX: y\r\n\r\n"
                + "POST /CliService/get_leader HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
                + "a;x=y\r\n{\"group_id\r\n7\r\n\":\"g2\"}\r\n0\r\nTrailer: t\r\n\r\n" + Self.request).utf8)
        let whole = HttpHarness()
        whole.feed(stream)
        let expected = whole.sent()
        #expect(expected.ranges(of: "HTTP/1.1 200 OK").count == 4 && expected.contains("leader of g2"), "\(expected)")
        let slow = HttpHarness()
        for byte in stream { slow.feed([byte]) }
        #expect(slow.sent() == expected)
    }

    @Test func headIsAnsweredWithoutTheBody() {
        let harness = HttpHarness()
        let response = harness.responses(to: "HEAD /health HTTP/1.1\r\n\r\n")
        #expect(response.hasPrefix("HTTP/1.1 200 OK\r\n") && response.contains("Content-Length: 2\r\n"))
        #expect(response.hasSuffix("\r\n\r\n") && !harness.connection.isClosing)
    }

    @Test(arguments: ["PUT", "DELETE", "OPTIONS", "PATCH"])
    func theMethodDoesNotMatter(method: String) {
        let response = HttpHarness().responses(
            to: "\(method) /CliService/get_leader HTTP/1.1\r\nContent-Length: 17\r\n\r\n{\"group_id\":\"g1\"}")
        #expect(response.contains("leader of g1"))
    }

    @Test func aConnectionStaysOpenAsItsClientWants() {
        let closing = HttpHarness()
        #expect(closing.get("/health", headers: "Connection: close\r\n").has("connection: close"))
        #expect(closing.connection.isClosing)
        let old = HttpHarness()
        #expect(old.responses(to: "GET /health HTTP/1.0\r\n\r\n").contains("Connection: close"))
        #expect(old.connection.isClosing)
        let kept = HttpHarness()
        let response = kept.responses(to: "GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        #expect(response.contains("Connection: keep-alive") && !kept.connection.isClosing)
    }

    @Test func whoAsksFirstIsToldToGoOn() {
        let harness = HttpHarness()
        harness.feed("POST /CliService/get_leader HTTP/1.1\r\nContent-Length: 17\r\nExpect: 100-continue\r\n\r\n")
        #expect(harness.sent() == "HTTP/1.1 100 Continue\r\n\r\n")
        harness.feed("{\"group_id\"")
        #expect(harness.sent() == "")
        harness.feed(":\"g1\"}")
        #expect(harness.sent().contains("leader of g1"))
    }

    @Test func anotherProtocolIsNotSwitchedTo() {
        let headers = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        let harness = HttpHarness()
        #expect(harness.get("/health", headers: headers).body == "OK")
        #expect(harness.get("/health").body == "OK")
        let target = HttpHarness().responses(to: "CONNECT example.com:443 HTTP/1.1\r\n\r\n")
        #expect(target.hasPrefix("HTTP/1.1 400 "))
    }

    @Test func aFullConnectionTakesNoMoreRequests() {
        let harness = HttpHarness()
        harness.connection.unsentBytes = WaterMark.high + 1
        harness.feed("GET /health HTTP/1.1\r\n\r\nGET /health HTTP/1.1\r\n\r\n")
        #expect(harness.sent() == "")
        harness.connection.unsentBytes = 0
        harness.drain()
        #expect(harness.sent().hasSuffix("\r\n\r\nOK"))
    }

    @Test func anAnswerToSomebodyWhoHasGoneIsDropped() {
        let harness = HttpHarness()
        let held = #"{"group_id":"g","leader_id":"","peer_id":"p"}"#
        _ = harness.post("/CliService/add_peer", held)
        harness.close()
        harness.held[0].responder.fail(1, "late")
        #expect(harness.sent() == "")
    }

    /// What cannot be understood, and with which status that is said.
    private static let hostile: [(String, Int)] = [
        ("GET /health HTTP/1.1\r\nX: " + String(repeating: "x", count: 33 << 10) + "\r\n\r\n", 431),
        ("GET /health HTTP/1.1\r\n" + String(repeating: "X: y\r\n", count: 20_000) + "\r\n", 431),
        ("GET /" + String(repeating: "x", count: 9 << 10) + " HTTP/1.1\r\n\r\n", 414),
        ("POST /health HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n", 413),
        ("POST /health HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\n", 400),
        ("POST /health HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        ("POST /health HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", 400),
        ("POST /health HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz", 400),
        ("POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n", 400),
        (
            "POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n100001\r\n"
                + String(repeating: "x", count: 0x100001) + "\r\n", 413
        ),
        (
            "POST /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: "
                + String(repeating: "x", count: 33 << 10)
                + "\r\n\r\n", 431
        ),
        ("GET /health HTTP/2.0\r\n\r\n", 505), ("GET /health\r\n\r\n", 505), ("GET /health HTTP/9.9.9\r\n\r\n", 505),
        ("GET /he\u{0}alth HTTP/1.1\r\n\r\n", 400), ("GET /health HTTP/1.1\r\nX\u{0}: y\r\n\r\n", 400),
        ("POST /health FTP/1.1\r\n\r\n", 400), ("GET /%zz HTTP/1.1\r\n\r\n", 400), ("GET /%ff HTTP/1.1\r\n\r\n", 400),
    ]

    @Test(arguments: hostile.indices) func whatIsNoRequestEndsInOneAnswer(number: Int) {
        let (text, status) = Self.hostile[number]
        let harness = HttpHarness()
        let response = harness.responses(to: text + "GET /health HTTP/1.1\r\n\r\n")
        #expect(response.hasPrefix("HTTP/1.1 \(status) "), "\(text.prefix(100)): \(response.prefix(200))")
        let isPath = text.contains("/%")
        harness.wait(.milliseconds(1600))
        #expect(harness.connection.isClosing != isPath && (isPath || response.ranges(of: "HTTP/1.1").count == 1))
    }

    @Test func thePortIsShared() {
        func matches(_ text: String) -> [Bool?] { [HttpServer.matches(Bytes(text)), RedisServer.matches(Bytes(text))] }
        #expect(matches("GET / HTTP/1.1") == [true, false] && matches("POST /x") == [true, false])
        #expect(matches("GET k") == [false, true] && matches("get k") == [false, true])
        #expect(matches("P") == [nil, nil] && matches("GET ") == [nil, nil] && matches("") == [nil, nil])
        #expect(matches("PRPC") == [false, false] && matches("PRI * HTTP/2.0") == [false, false])
        #expect(matches("*1\r\n") == [false, true] && matches("\u{16}\u{3}\u{1}") == [false, false])
    }
}
