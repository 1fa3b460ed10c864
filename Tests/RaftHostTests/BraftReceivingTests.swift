import RaftCore
import RaftStorage
import Simulator
import Testing

@testable import RaftHost
@testable import Transport

@Suite("Snapshots of a braft")
struct BraftReceivingTests {
    /// Bytes of each of the two large files.
    private static let fileBytes = 300_000

    /// A node whose group a braft leads.
    private func led(
        seed: UInt64 = 31, _ change: (inout HostCluster.Plan) -> Void = { _ in }
    ) throws -> (HostCluster, SimulatedNode, BraftPeer) {
        var plan = HostCluster.Plan()
        plan.isOnItsOwn = true
        plan.takesBraftFiles = true
        plan.settings.snapshotBytesPerSecond = 4 << 20
        change(&plan)
        let cluster = HostCluster(seed: seed, plan: plan)
        let node = cluster.nodes[0]
        try node.start()
        let braft = try BraftPeer(cluster.world, at: SimulatedNode.address(3))
        serve(braft, at: 7)
        cluster.run(.milliseconds(500))
        return (cluster, node, braft)
    }

    private func meta(_ index: Int64, term: Int64 = 1) -> SnapshotMeta {
        SnapshotMeta(
            last: LogPosition(term: Term(term), index: LogIndex(index)),
            configuration: Configuration(peers: (1...3).map { PeerID(address: SimulatedNode.address($0)) }))
    }

    /// What a machine takes for its filler, and no two parts of which are equal.
    private func content(_ factor: Int) -> [UInt8] {
        (0..<BraftReceivingTests.fileBytes).map { $0 < 8 ? 0 : UInt8(truncatingIfNeeded: $0 * factor / 251) }
    }

    /// Has `braft` serve the state at `index`.
    private func serve(
        _ braft: BraftPeer, at index: Int64, named names: [String]? = nil, more: [String: [UInt8]] = [:]
    ) {
        let peers = meta(index).configuration.listed.map(\.description).joined(separator: ",")
        braft.files = [
            "first": content(7),
            "second": content(11),
            "state": Array("0 \(index) 1 \(peers) 0".utf8),
            "empty": [],
            "sub/.more": [1, 2, 3],
        ].merging(more) { $1 }
        let files = (names ?? braft.files.keys.sorted()).map { BraftFile(name: $0, storedName: "") }
        braft.files["__raft_snapshot_meta"] = braft.wire.braftList(files, meta(index)).array
    }

    private func answer(_ call: BraftPeer.Call, _ braft: BraftPeer) -> SnapshotReply? {
        call.reply.flatMap { braft.wire.decodeSnapshotReply($0.body) }
    }

    private func isInstalled(_ node: SimulatedNode, _ index: Int64) -> Bool {
        node.machines[0].appliedPosition.index == LogIndex(index)
    }

    /// Whether it is, behind what is being applied when the answer leaves.
    private func isInForce(_ cluster: HostCluster, _ node: SimulatedNode, _ index: Int64) -> Bool {
        cluster.run(limit: 1000) { isInstalled(node, index) }
    }

    @Test("It is read list first, then file after file, and in force for good when it is answered")
    func install() throws {
        let (cluster, node, braft) = try led()
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        #expect(answer(call, braft) == SnapshotReply(term: Term(5), success: true))
        #expect(isInForce(cluster, node, 7))
        let raft = try #require(node.host.raft(of: "g0"))
        #expect(raft.base.index == LogIndex(7) && raft.commitIndex == LogIndex(7))
        let list = GetFileRequest(
            reader: -42, name: "__raft_snapshot_meta", count: 4_294_967_295, offset: 0, readPartly: true)
        #expect(braft.reads.first == list)
        let parts = braft.reads.dropFirst()
        #expect(parts.allSatisfy { $0.count == 131_072 && $0.reader == -42 && $0.readPartly })
        #expect(
            parts.map { "\($0.name)@\($0.offset)" } == [
                "empty@0", "first@0", "first@131072", "first@262144", "second@0", "second@131072", "second@262144",
                "state@0", "sub/.more@0",
            ])
        let files = node.stores[0].files
        #expect(files.keys.sorted() == ["__raft_snapshot_meta", "empty", "first", "second", "state", "sub%2F.more"])
        #expect(files["first"]?.array == content(7) && files["second"]?.array == content(11))
        #expect(files["sub%2F.more"]?.array == [1, 2, 3])
        #expect(files["__raft_snapshot_meta"]?.array == braft.files["__raft_snapshot_meta"])
        cluster.run(.milliseconds(1000))
        #expect(try node.snapshotDisk.folders() == [])
        // for good
        node.crash(.everything)
        try node.start()
        #expect(isInstalled(node, 7) && node.host.raft(of: "g0")?.base.index == LogIndex(7))
        #expect(cluster.allViolations == [])
    }

    @Test("Each bad offer gets braft's number") func refusals() throws {
        let (cluster, node, braft) = try led()
        func code(_ call: BraftPeer.Call) -> Int32? {
            #expect(cluster.run(limit: 5000) { call.result != nil })
            return call.code
        }
        #expect(code(braft.offer(meta(7), term: 5, to: node, receiver: "nobody")) == 22)
        #expect(code(braft.offer(meta(7), term: 5, to: node, receiver: "10.0.0.2:8100:0:0")) == 2)
        #expect(code(braft.offer(meta(7), term: 5, to: node, receiver: "10.0.0.1:8100:1:0")) == 2)
        #expect(code(braft.offer(meta(7), term: 5, to: node, group: "g9")) == 2)
        #expect(code(braft.offer(meta(7), term: 5, to: node, sender: "x")) == 1003)
        #expect(code(braft.call("braft.RaftService", "install_snapshot", Bytes("x"), to: node.address)) == 1003)
        for uri in ["", "remote://10.0.0.3:8100", "remote://nowhere:1/1", "local:///etc"] {
            #expect(code(braft.offer(meta(7), term: 5, to: node, uri: uri)) == 22, "\(uri)")
        }
        let nobody = SnapshotMeta(last: meta(7).last, configuration: .empty)
        #expect(code(braft.offer(nobody, term: 5, to: node)) == 22)
        #expect(code(braft.offer(meta(-1), term: 5, to: node)) == 22)
        #expect(code(braft.offer(meta(.max), term: 5, to: node)) == 22)
        #expect(braft.reads.isEmpty && node.host.receiving.order.isEmpty)
        // of an earlier term
        let stale = braft.offer(meta(7), term: 1, to: node)
        #expect(cluster.run(limit: 5000) { stale.result != nil })
        let term = try #require(node.host.raft(of: "g0")?.term)
        #expect(answer(stale, braft) == SnapshotReply(term: term, success: false))
    }

    @Test("A group that takes no braft's files says so, and goes on") func unsupported() throws {
        let (cluster, node, braft) = try led { $0.takesBraftFiles = false }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 5000) { call.result != nil })
        #expect(call.code == 22 && call.text?.contains("Not support snapshot") == true)
        #expect(braft.reads.isEmpty && node.host.receiving.order.isEmpty)
        #expect(node.status(0)?.problem?.contains("takes no snapshot") == true)
    }

    @Test("What is here already, or older, is a success at once") func known() throws {
        let (cluster, node, braft) = try led()
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        let reads = braft.reads.count
        for index in [7, 6, 1] as [Int64] {
            let again = braft.offer(meta(index), term: 5, to: node, uri: "remote://10.0.0.3:8100/1")
            #expect(cluster.run(limit: 5000) { again.result != nil })
            #expect(answer(again, braft)?.success == true)
        }
        #expect(braft.reads.count == reads)
    }

    @Test("The same offer takes the place of the one before, an older one is refused, a newer one ends the download")
    func others() throws {
        let (cluster, node, braft) = try led()
        braft.onRead = { $0.name == "second" ? .silence : nil }
        let first = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { braft.reads.last?.name == "second" })
        let second = braft.offer(meta(7), term: 5, to: node)
        cluster.run(.milliseconds(500))
        #expect(first.code == 4 && second.result == nil)
        let older = braft.offer(meta(6), term: 5, to: node)
        cluster.run(.milliseconds(500))
        #expect(older.code == 22 && second.result == nil)
        let newer = braft.offer(meta(8), term: 5, to: node)
        cluster.run(.milliseconds(500))
        #expect(newer.code == 16 && second.code == 125)
        #expect(node.host.receiving.order.isEmpty && node.host.replicas[0].incoming == nil)
        braft.onRead = { _ in nil }
        serve(braft, at: 8)
        let last = braft.offer(meta(8), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { last.result != nil })
        #expect(answer(last, braft)?.success == true && isInForce(cluster, node, 8))
        #expect(cluster.allViolations == [])
    }

    @Test("A newer one begins a while after another gave way to it: each that begins costs a number and a write")
    func newerPace() throws {
        let (cluster, node, braft) = try led()
        braft.onRead = { $0.name == "second" ? .silence : nil }
        let first = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { braft.reads.last?.name == "second" })
        let newer = braft.offer(meta(8), term: 5, to: node)
        #expect(cluster.run(limit: 1000) { newer.result != nil && first.result != nil })
        #expect(newer.code == 16 && first.code == 125)
        braft.onRead = { _ in nil }
        serve(braft, at: 8)
        let early = braft.offer(meta(8), term: 5, to: node)
        cluster.run(limit: 200) { early.result != nil }
        #expect(early.code == 16 && node.host.receiving.order.isEmpty)
        cluster.run(.milliseconds(300))
        let last = braft.offer(meta(8), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { last.result != nil })
        #expect(answer(last, braft)?.success == true && isInForce(cluster, node, 8))
    }

    @Test("One that is being installed is left alone") func installing() throws {
        let (cluster, node, braft) = try led()
        node.recording.worker("maintenance").hangs = true
        let first = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { node.host.receiving.order.first?.isBeingInstalled == true })
        let newer = braft.offer(meta(8), term: 5, to: node)
        let same = braft.offer(meta(7), term: 5, to: node, uri: "remote://10.0.0.3:8100/9")
        cluster.run(.milliseconds(500))
        #expect(newer.code == 16 && first.code == 4 && same.result == nil)
        node.recording.worker("maintenance").hangs = false
        #expect(cluster.run(limit: 20_000) { same.result != nil })
        #expect(answer(same, braft)?.success == true && isInForce(cluster, node, 7))
    }

    @Test("No more are received at a time than there are places for brafts, which are no others' places")
    func throttle() throws {
        let (cluster, node, braft) = try led {
            $0.groups = ["g0", "g1"]
            $0.settings.snapshotsReceived = 0
        }
        braft.onRead = { $0.name == "first" ? .silence : nil }
        let first = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { braft.reads.last?.name == "first" })
        let other = braft.offer(meta(7), term: 5, to: node, group: "g1")
        cluster.run(.milliseconds(500))
        #expect(other.code == 16 && first.result == nil)
        #expect(node.host.hasRoomForAnother(isForeign: true) == false)
    }

    @Test("What a guest is offered takes a guest's place, also if it comes as from one of ours", arguments: 0...1)
    func guestsPlace(places: Int) throws {
        let (cluster, node, braft) = try led {
            $0.kind = RaftHost.guestKind
            $0.settings.snapshotsReceived = 1 - places
            $0.settings.foreignSnapshotsReceived = places
        }
        let call = braft.offer(meta(7), term: 5, to: node, uri: "flotilla://\(braft.address)/77")
        #expect(cluster.run(limit: 20_000) { call.result != nil || !node.host.receiving.order.isEmpty })
        #expect((call.code == 16) == (places == 0))
    }

    @Test("A part that fails is asked for again three times, a second apart", arguments: [5, 2, 2001] as [Int32])
    func failures(code: Int32) throws {
        let (cluster, node, braft) = try led()
        braft.onRead = { $0.offset == 131_072 ? .error(code) : nil }
        let begin = cluster.world.now
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        #expect(call.code == code)
        #expect(braft.reads.count(where: { $0.offset == 131_072 }) == 4)
        #expect(cluster.world.now - begin >= .milliseconds(3000))
        // and later all is well
        braft.onRead = { _ in nil }
        var result: SnapshotReply?
        for _ in 0..<10 where result == nil {
            let next = braft.offer(meta(7), term: 5, to: node)
            #expect(cluster.run(limit: 20_000) { next.result != nil })
            result = answer(next, braft)
            cluster.run(.milliseconds(1000))
        }
        #expect(result?.success == true && isInForce(cluster, node, 7))
        #expect(cluster.allViolations == [])
    }

    @Test("A part that is failing only at first, and one that is to be waited for, come in the end")
    func patience() throws {
        let (cluster, node, braft) = try led()
        var again = 0
        braft.onRead = { read in
            again += 1
            if read.name == "first", again <= 12 { return .error(11) }
            return read.name == "second" && again <= 15 ? .error(5) : nil
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 60_000) { call.result != nil })
        #expect(answer(call, braft)?.success == true && isInForce(cluster, node, 7))
    }

    @Test("Zeros that are left out, small parts and sizes that are not said make the same files") func holes() throws {
        let (cluster, node, braft) = try led()
        let zeros = [UInt8](repeating: 0, count: BraftReceivingTests.fileBytes)
        (braft.files["first"], braft.files["second"]) = (zeros, zeros)
        braft.onRead = { read in
            switch (read.name, read.offset) {
            case ("first", 262_144): .part(GetFileReply(isAtEnd: true, readSize: 300_000 - 262_144), attachment: [])
            case ("first", _): .part(GetFileReply(isAtEnd: false, readSize: 131_072), attachment: [])
            case ("second", 0):
                .part(
                    GetFileReply(isAtEnd: false, readSize: 1000),
                    attachment: BraftPeer.segment(10, [0]) + BraftPeer.segment(500, [0, 0]))
            case ("sub/.more", 0):
                .part(GetFileReply(isAtEnd: true, readSize: nil), attachment: BraftPeer.segment(0, [1, 2, 3]))
            default: nil
            }
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        #expect(answer(call, braft)?.success == true && isInForce(cluster, node, 7))
        let files = node.stores[0].files
        #expect(files["first"]?.array == zeros)
        #expect(files["second"]?.array == zeros && files["sub%2F.more"]?.array == [1, 2, 3])
    }

    @Test("An end that is told by an empty answer behind a hole leaves the hole in the file") func emptyEnd() throws {
        let (cluster, node, braft) = try led()
        braft.files["first"] = Array(repeating: 0, count: 262_144)
        braft.onRead = { read in
            guard read.name == "first" else { return nil }
            return read.offset < 262_144
                ? .part(GetFileReply(isAtEnd: false, readSize: 131_072), attachment: [])
                : .part(GetFileReply(isAtEnd: true, readSize: 0), attachment: [])
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        #expect(answer(call, braft)?.success == true && isInForce(cluster, node, 7))
        #expect(node.stores[0].files["first"]?.array == Array(repeating: 0, count: 262_144))
    }

    @Test("One that comes too slowly is given up: it holds up others") func slow() throws {
        let (cluster, node, braft) = try led()
        braft.onRead = { read in
            guard read.name == "first" else { return nil }
            let byte = BraftPeer.segment(Int(read.offset), [1])
            return .part(GetFileReply(isAtEnd: false, readSize: 1), attachment: byte)
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 120_000) { call.result != nil })
        #expect(call.code == 125)
    }

    @Test("A file of a byte earns no time that a file of many would not") func smallFiles() throws {
        let (cluster, node, braft) = try led()
        let tiny = (0..<12).map { ("tiny\($0)", [UInt8(1)]) }
        serve(braft, at: 7, more: Dictionary(uniqueKeysWithValues: tiny))
        var tries = 0
        braft.onRead = { read in
            guard read.name.hasPrefix("tiny") else { return nil }
            tries += 1
            return tries.isMultiple(of: 20) ? nil : .error(11)
        }
        let begin = cluster.world.now
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 400_000) { call.result != nil })
        #expect(call.code == 125)
        #expect(cluster.world.now - begin < .milliseconds(80_000))
        #expect(node.host.hasRoomForAnother(isForeign: true))
        // a thousand of them that come are no trouble
        serve(braft, at: 7, more: Dictionary(uniqueKeysWithValues: (0..<1000).map { ("tiny\($0)", [UInt8(1)]) }))
        braft.onRead = { _ in nil }
        cluster.run(.milliseconds(6000))
        let next = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 60_000) { next.result != nil })
        #expect(answer(next, braft)?.success == true && isInForce(cluster, node, 7))
    }

    @Test("One that is offered again and again has no more time for that", arguments: [0, 131_072] as [Int64])
    func offeredAgain(upTo offset: Int64) throws {
        let (cluster, node, braft) = try led()
        braft.onRead = { $0.name == "first" && $0.offset >= offset ? .error(11) : nil }
        var calls: [BraftPeer.Call] = []
        for _ in 0..<20 {
            braft.reader -= 1
            calls.append(braft.offer(meta(7), term: 5, to: node))
            cluster.run(.milliseconds(8000))
        }
        #expect(calls.contains { $0.code == 125 }, "\(calls.map { $0.code ?? 0 })")
    }

    @Test("A pause between two offers is not held against it") func pausedBetweenOffers() throws {
        let (cluster, node, braft) = try led()
        braft.onRead = { $0.name == "first" ? .error(5) : nil }
        var calls: [BraftPeer.Call] = []
        // each tries for three seconds, then it rests
        for _ in 0..<5 {
            calls.append(braft.offer(meta(7), term: 5, to: node))
            cluster.run(.milliseconds(20_000))
        }
        #expect(calls.allSatisfy { $0.code == 5 })
    }

    @Test("A list is read where it keeps nobody waiting") func listOnWorker() throws {
        let (cluster, node, braft) = try led()
        // another snapshot than the one offered
        serve(braft, at: 6)
        braft.onRead = { _ in
            node.recording.worker("reader").hangs = true
            return nil
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 5000) { braft.reads.count == 1 })
        cluster.run(.milliseconds(2000))
        #expect(call.result == nil)
        node.recording.worker("reader").hangs = false
        #expect(cluster.run(limit: 5000) { call.result != nil })
        #expect(call.code == 22)
    }

    @Test("A store that has much to write for one lets others do their work, and pays for it") func inSteps() throws {
        let (cluster, node, braft) = try led {
            $0.installSteps = 40
            $0.settings.snapshotBytesPerSecond = 1 << 20
        }
        func steps() -> Int { node.recording.installing.all.count }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { steps() == 5 })
        let begin = cluster.world.now
        let isDone = Box(false)
        node.lane.post { [host = node.host!] in
            host.workers.maintenance.submit {
            } completion: {
                isDone.value = true
            }
        }
        #expect(cluster.run(limit: 20_000) { isDone.value })
        #expect(steps() < 20 && node.host.receiving.order.first?.isBeingInstalled == true)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        #expect(answer(call, braft)?.success == true && isInForce(cluster, node, 7) && steps() == 40)
        // 34 of them have to be paid for in between
        #expect(cluster.world.now - begin > .milliseconds(1400))
    }

    @Test("A torn connection is resumed where it tore; with another reader, at the start of the file that was begun")
    func torn() throws {
        let (cluster, node, braft) = try led()
        var hasTorn = false
        braft.onRead = { [unowned cluster] read in
            guard read.name == "first", read.offset == 131_072, !hasTorn else { return nil }
            hasTorn = true
            cluster.world.breakConnections(between: node.address, and: braft.address)
            return .silence
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { braft.reads.contains { $0.name == "second" && $0.offset == 131_072 } })
        #expect(braft.reads.count(where: { $0.name == "first" && $0.offset == 0 }) == 1)
        #expect(call.code == RpcCode.failedSocket)
        // the offer went with the connection; the next one has another reader
        braft.reader = -43
        let begun = braft.reads.count
        let next = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { next.result != nil })
        #expect(answer(next, braft)?.success == true && isInForce(cluster, node, 7))
        let later = braft.reads.dropFirst(begun).filter { $0.reader == -43 }
        #expect(later.first?.name == "__raft_snapshot_meta")
        #expect(later.dropFirst().first.map { $0.name != "first" && $0.offset == 0 } == true)
        #expect(!later.contains { $0.name == "first" || $0.name == "empty" })
        let files = node.stores[0].files
        #expect(files["first"]?.array == content(7) && files["second"]?.array == content(11))
        #expect(cluster.allViolations == [])
    }

    @Test("Hostile lists and parts end the download with an error, and leave nothing", arguments: 0..<9)
    func hostile(_ kind: Int) throws {
        let (cluster, node, braft) = try led()
        switch kind {
        case 0: serve(braft, at: 7, named: ["../../etc/passwd"])
        case 1: serve(braft, at: 7, named: ["/etc/passwd"])
        case 2: serve(braft, at: 7, named: ["first", "first"])
        // another snapshot than the one offered
        case 3: serve(braft, at: 6)
        case 4: braft.files["__raft_snapshot_meta"] = Array("no list".utf8)
        default:
            braft.onRead = { read in
                let isList = read.name == "__raft_snapshot_meta"
                switch kind {
                // a list that never ends
                case 5:
                    let bytes = [UInt8](repeating: 0, count: 1 << 20)
                    let reply = GetFileReply(isAtEnd: false, readSize: 1 << 20)
                    return isList ? .part(reply, attachment: BraftPeer.segment(Int(read.offset), bytes)) : nil
                // bytes outside of what was asked for
                case 6:
                    let reply = GetFileReply(isAtEnd: false, readSize: 1)
                    return isList ? nil : .part(reply, attachment: BraftPeer.segment(1 << 50, [1]))
                case 7:
                    return isList ? nil : .part(GetFileReply(isAtEnd: false, readSize: .max), attachment: [])
                default:
                    let reply = GetFileReply(isAtEnd: false, readSize: 10)
                    return isList ? nil : .part(reply, attachment: Array(BraftPeer.segment(0, [1, 2]).dropLast()))
                }
            }
        }
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 60_000) { call.result != nil })
        #expect(call.code == (kind < 5 ? 22 : 2002), "\(call.text ?? "no error")")
        cluster.run(.milliseconds(500))
        #expect(try node.snapshotDisk.folders() == [] && node.host.receiving.order.isEmpty)
        #expect(node.machines[0].appliedPosition == .zero && cluster.allViolations == [])
        serve(braft, at: 7)
        braft.onRead = { _ in nil }
        cluster.run(.milliseconds(6000))
        let next = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { next.result != nil } && isInForce(cluster, node, 7))
    }

    @Test("A full disk ends it, and it comes when there is room again") func fullDisk() throws {
        let (cluster, node, braft) = try led { $0.settings.minimumFreeBytes = 1 << 40 }
        _ = cluster
        let call = braft.offer(meta(7), term: 5, to: node)
        #expect(cluster.run(limit: 20_000) { call.result != nil })
        #expect(call.code == 28 && node.machines[0].appliedPosition == .zero)
    }

    @Test(
        "A receiver that loses its power at any moment has no state or the whole, and gets it in the end",
        arguments: 1...8)
    func crashes(seed: UInt64) throws {
        let (cluster, node, braft) = try led(seed: 300 + seed) {
            $0.settings.snapshotBytesPerSecond = 1 << 20
            $0.installSteps = seed.isMultiple(of: 2) ? 4 : 0
        }
        var random = SeededRandom(seed: seed)
        for round in 0..<6 as Range<Int64> {
            braft.reader = -50 - round
            let call = braft.offer(meta(7), term: 5, to: node)
            cluster.run(Interval(nanoseconds: random.number(in: 0..<1_200_000_000)))
            node.crash()
            try node.start()
            let applied = node.machines[0].appliedPosition.index
            #expect(applied == .zero || applied == LogIndex(7))
            if answer(call, braft)?.success == true { #expect(applied == LogIndex(7)) }
            cluster.run(.milliseconds(200))
        }
        braft.reader = -90
        #expect(
            cluster.run(limit: 60_000) {
                if !isInstalled(node, 7), node.host.receiving.order.isEmpty {
                    _ = braft.offer(meta(7), term: 5, to: node)
                    cluster.world.run(for: .milliseconds(200))
                }
                return isInstalled(node, 7)
            })
        #expect(cluster.allViolations == [])
    }

    @Test("Three nodes that take each other for brafts bring one back by files, whoever crashes") func among() throws {
        var plan = HostCluster.Plan()
        plan.isOnItsOwn = true
        plan.takesBraftFiles = true
        plan.flushesOneOf = 2
        plan.settings.compactionEntries = 40
        plan.settings.keptEntries = 10
        plan.settings.keptBytes = 4 << 10
        plan.settings.compactionPace = .milliseconds(100)
        plan.settings.snapshotChunkBytes = 4 << 10
        plan.settings.snapshotBytesPerSecond = 200_000
        let cluster = HostCluster(seed: 41, plan: plan)
        try cluster.start()
        cluster.awaitLeaders()
        let late = try #require(cluster.nodes.last { !$0.leads(0) })
        late.crash()
        cluster.run(.milliseconds(2000))
        for tag in 1...150 as ClosedRange<UInt64> {
            guard let leader = cluster.leader(of: 0) else { continue }
            leader.lane.post { [host = leader.host!] in
                host.propose(Command.payload(tag: tag, byteCount: 200), to: "g0") { _ in }
            }
            cluster.run(.milliseconds(20))
        }
        try late.start()
        #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= 5 })
        cluster.world.breakConnections(between: late.address, and: try #require(cluster.leader(of: 0)).address)
        #expect(cluster.run(limit: 20_000) { late.host.receiving.piecesAsked >= 8 })
        let sender = try #require(cluster.leader(of: 0))
        sender.crash()
        cluster.run(.milliseconds(500))
        try sender.start()
        #expect(
            cluster.run(limit: 120_000) {
                late.machines[0].appliedPosition.index == cluster.histories[0].lastIndex
            })
        #expect(late.host.records.first.map { $0.store != $0.number } == true)
        #expect(late.stores[0].files.keys.contains("__raft_snapshot_meta"))
        #expect(cluster.allViolations == [])
    }
}
