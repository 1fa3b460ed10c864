import CMessages
import Glibc
import RaftCore
import ShardMap
import Testing
import Transport
import WireMessages

@testable import ShardClient

/// A node of one shard in this process, behind a real socket, with a plain sorted array for a store.
private final class OneNode: @unchecked Sendable {
    let address: NodeAddress
    private let loop: EventLoop
    private let arena = Arena()
    private var thread = pthread_t()
    private var pairs: [(key: Bytes, value: Bytes)] = []
    private var sessions: [UInt64] = []

    init() throws {
        loop = try EventLoop()
        let network = loop.makeNetwork()
        let server = RpcServer(address: .local)
        let acceptor = { (_: any Connection) in server.makeHandler() }
        try network.listen(on: .local, accept: acceptor)
        address = network.listeningAddresses[0]
        server.register("flotilla.ClusterService") { [unowned self] method, request in
            guard method == "get_map" else { return false }
            answerMap(request)
            return true
        }
        server.register("flotilla.KvService") { [unowned self] method, request in
            guard method == "execute" else { return false }
            request.responder.reply(body: execute(request).packed(arena))
            return true
        }
        let context = Unmanaged.passUnretained(loop).toOpaque()
        let failure = pthread_create(
            &thread, nil,
            { context in
                Unmanaged<EventLoop>.fromOpaque(context!).takeUnretainedValue().run()
                return nil
            }, context)
        precondition(failure == 0)
    }

    func stop() {
        let loop = loop
        loop.post { loop.stop() }
        pthread_join(thread, nil)
    }

    private func answerMap(_ request: RpcRequest) {
        arena.scope { arena in
            let reply = arena.make(flotilla__get_map_reply__init)
            reply.pointee.map = map.encoded(arena)
            request.responder.reply(reply)
        }
    }

    private var map: ClusterMap {
        ClusterMap(
            clusterID: 7, version: 3, nodes: [Node(id: 1, address: address, incarnation: 1)],
            groups: [Group(id: "g1", peers: [PeerID(address: address)], isBorn: true)],
            shards: [Shard(id: 1, range: KeyRange(start: Bytes(), end: Bytes()), group: "g1", epoch: 1)])
    }

    private func execute(_ request: RpcRequest) -> ExecuteReply {
        guard let body = ExecuteRequest(request.body, arena) else { return ExecuteReply(error: .badRequest) }
        guard body.group == "g1", body.shard == 1, body.epoch == 1 else { return ExecuteReply(error: .wrongShard) }
        guard !request.attachment.isEmpty else { return ExecuteReply(results: body.reads.map(evaluate)) }
        switch try? GroupCommand.decoded(request.attachment, arena) {
        case .openSession:
            sessions.append(UInt64(sessions.count) + 71)
            return ExecuteReply(session: sessions.last)
        case .write(let write) where sessions.contains(write.session):
            return ExecuteReply(results: write.operations.map(evaluate))
        case .write: return ExecuteReply(error: .sessionExpired)
        default: return ExecuteReply(error: .badRequest)
        }
    }

    private func evaluate(_ operation: KeyOperation) -> KeyResult {
        let position = pairs.firstIndex { $0.key == operation.key }
        let value = position.map { pairs[$0].value }
        switch operation.code {
        case .get: return KeyResult(value: value)
        case .exists: return KeyResult(integer: value == nil ? 0 : 1)
        case .count: return KeyResult(integer: Int64(pairs.count))
        case .scan:
            let found = pairs.filter { !($0.key < operation.key) }
            let page = found.prefix(Int(operation.number)).map { KeyResult.Pair(key: $0.key, value: $0.value) }
            return KeyResult(integer: page.count < found.count ? 1 : 0, pairs: page)
        case .delete:
            if let position { pairs.remove(at: position) }
            return KeyResult(integer: position == nil ? 0 : 1)
        case .set:
            if operation.condition == .ifAbsent && value != nil { return KeyResult(applied: false) }
            store(operation.value, at: position, operation.key)
            return KeyResult()
        case .append:
            let joined = Bytes((value?.array ?? []) + operation.value.array)
            store(joined, at: position, operation.key)
            return KeyResult(integer: Int64(joined.count))
        case .increment:
            guard let number = Int64(value?.text ?? "0") else { return .failure(.notAnInteger) }
            store(Bytes("\(number + operation.number)"), at: position, operation.key)
            return KeyResult(integer: number + operation.number)
        case .stringLength, .timeToLive, .expire, .persist: return .failure(.refused)
        }
    }

    private func store(_ value: Bytes, at position: Int?, _ key: Bytes) {
        if let position { pairs[position].value = value } else { pairs.append((key, value)) }
        pairs.sort { $0.key < $1.key }
    }
}

extension NodeAddress {
    fileprivate static let local = NodeAddress(ip: 127 << 24 | 1, port: 0)
}

@Suite("A client and a node over sockets") struct ClientTests {
    @Test func everyCallAgainstANode() async throws {
        let node = try OneNode()
        defer { node.stop() }
        let client = try Client(seeds: [node.address])
        let key = Bytes("k")
        #expect(try await client.get(key) == nil)
        try await client.put(key, Bytes("v"))
        #expect(try await client.get(key) == Bytes("v"))
        #expect(try await client.putIfAbsent(key, Bytes("w")) == false)
        #expect(try await client.putIfAbsent(Bytes("l"), Bytes("w")) == true)
        #expect(try await client.append(key, Bytes("ww")) == 3)
        #expect(try await client.exists(key) == true)
        #expect(try await client.increment(Bytes("n"), by: 41) == 41)
        #expect(try await client.increment(Bytes("n")) == 42)
        #expect(try await client.count() == 3)
        let page = try await client.scan(from: Bytes(), limit: 2)
        #expect(page.pairs.map(\.key.text) == ["k", "l"] && page.next == Bytes("l\u{0}"))
        #expect(try await client.delete(key) == true)
        #expect(try await client.delete(key) == false)
        #expect(try await client.clusterMap().version == 3)
        await #expect(throws: ClientError(.notAnInteger)) {
            try await client.increment(Bytes("l"))
        }
        client.close()
    }

    @Test func manyTasksAtOnce() async throws {
        let node = try OneNode()
        defer { node.stop() }
        let client = try Client(seeds: [node.address])
        let sums = await withTaskGroup(of: Int64?.self) { group in
            for _ in 0..<500 { group.addTask { try? await client.increment(Bytes("n")) } }
            return await group.reduce(into: [Int64?]()) { $0.append($1) }
        }
        #expect(sums.compactMap { $0 }.sorted() == Array(1...500))
        client.close()
    }

    @Test func anyCallForTools() async throws {
        let node = try OneNode()
        defer { node.stop() }
        let client = try Client(seeds: [node.address])
        let body = try await client.call(
            node.address, service: "flotilla.ClusterService", method: "get_map", body: Bytes(),
            timeout: .milliseconds(5000))
        #expect(!body.isEmpty)
        await #expect(throws: ClientError.self) {
            try await client.call(
                node.address, service: "flotilla.ClusterService", method: "none", body: Bytes(),
                timeout: .milliseconds(5000))
        }
        client.close()
    }

    @Test func nobodyThereEndsWithTheTimeout() async throws {
        let node = try OneNode()
        node.stop()
        var settings = Client.Settings()
        settings.timeout = .milliseconds(100)
        let client = try Client(seeds: [node.address], settings: settings)
        await #expect(throws: ClientError(.deadlineExceeded, "no node had a map of the cluster")) {
            try await client.put(Bytes("k"), Bytes("v"))
        }
        client.close()
    }

    @Test func closingEndsWhatIsOpenAndRefusesMore() async throws {
        let node = try OneNode()
        node.stop()
        let client = try Client(seeds: [node.address])
        async let open = client.execute([get("a")])
        // whichever comes first, the call ends
        client.close()
        client.close()
        do {
            let results = try await open
            #expect(results.map(\.error) == [.stopping])
        } catch {
            #expect((error as? ClientError)?.error == .stopping)
        }
        await #expect(throws: ClientError(.stopping, "the client is closed")) { try await client.get(Bytes("a")) }
    }

    @Test(arguments: [
        (RpcCode.hostDown, NamedError.unreachable), (RpcCode.timedOut, .outcomeUnknown),
        (RpcCode.failedSocket, .outcomeUnknown), (RpcCode.badResponse, .outcomeUnknown),
        (RpcCode.internalError, .internalError), (RpcCode.noService, .refused), (RpcCode.noMethod, .refused),
        (RpcCode.overcrowded, .busy), (RpcCode.limitReached, .busy), (RpcCode.stopping, .stopping),
        (RpcCode.badRequest, .badRequest), (4711, .outcomeUnknown),
    ])
    func whatAFailedCallSays(code: Int32, named: NamedError) {
        let error = RpcError(code: code, text: "text")
        #expect(error.named == named)
        switch RouterOutcome(.failed(error), Arena()) {
        case .notSent: #expect(named.outcome == .notExecuted)
        case .lost: #expect(named.outcome == .unknown)
        case .reply(let reply): #expect(reply.error == named && [.badRequest, .busy].contains(named))
        }
        if case .lost = RouterOutcome(.reply(RpcReply(body: Bytes([0xff, 0xff]))), Arena()) { return }
        Issue.record("an answer that does not parse")
    }
}
