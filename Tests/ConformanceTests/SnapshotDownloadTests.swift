import NodeRuntime
import RaftCore
import RaftHost
import Synchronization
import Testing

@testable import FlotillaTestSupport

/// A guest whose group a scripted braft leads, which serves the files of snapshots: a reader's number is the index of its
/// snapshot.
private final class DownloadStage {
    /// What is said instead of a file's bytes.
    enum Trouble {
        case silence
        case failure(Int64)
    }

    let guest: Guest
    let braft: ScriptedBraft
    /// Another member, which may lead in a later term.
    let other: ScriptedBraft
    private let troubles: Troubles

    /// Shared with the braft's threads.
    private final class Troubles: Sendable {
        let byReader = Mutex<[Int64: Trouble]>([:])
    }

    static let files: [(name: String, bytes: [UInt8])] = [
        ("a", Array("one".utf8)), ("dir/b", (0..<200_000).map { UInt8(truncatingIfNeeded: $0 / 251) }),
    ]

    init(_ change: (inout NodeConfiguration) -> Void = { _ in }) throws {
        let ports = LoopbackPorts.take(2)
        let guest = try Guest()
        let troubles = Troubles()
        let members = ([guest.address] + ports).map { PeerID(address: $0) }
        let script: @Sendable (ScriptedBraft.Call) -> ScriptedBraft.Answer = { call in
            guard call.method == "get_file" else { return ScriptedBraft.obedient(call) }
            let reader = call.message.integer(1) ?? 0
            let trouble = troubles.byReader.withLock { $0[reader] }
            return DownloadStage.answer(call.message, reader, trouble, members)
        }
        self.guest = guest
        self.troubles = troubles
        braft = ScriptedBraft(at: ports[0], script)
        other = ScriptedBraft(at: ports[1], script)
        try guest.start(change: change)
    }

    func close() {
        guest.kill()
        braft.close()
        other.close()
    }

    var members: [PeerID] { [guest.peer, PeerID(address: braft.address), PeerID(address: other.address)] }
    func leader(_ term: Int64 = 7) -> Leader { Leader(peer: PeerID(address: braft.address), term: term) }

    /// From now on the last file of that reader makes trouble.
    func trouble(_ reader: Int64, _ trouble: Trouble?) { troubles.byReader.withLock { $0[reader] = trouble } }

    private static func answer(
        _ request: WireFields, _ reader: Int64, _ trouble: Trouble?, _ members: [PeerID]
    ) -> ScriptedBraft.Answer {
        let name = request.text(2) ?? ""
        let bytes: [UInt8]
        if name == "__raft_snapshot_meta" {
            bytes = list(reader, members)
        } else if let file = files.first(where: { $0.name == name }) {
            bytes = file.bytes
        } else {
            return .failure(1, "no such file")
        }
        if name == "dir/b" {
            switch trouble {
            case .silence?: return .later
            case .failure(let code)?: return .failure(code, "in trouble")
            case nil: break
            }
        }
        return part(of: bytes, request)
    }

    static func part(of bytes: [UInt8], _ request: WireFields) -> ScriptedBraft.Answer {
        let offset = Int(request.integer(4) ?? 0)
        let end = min(bytes.count, offset + Int(request.integer(3) ?? 0))
        let count = end - offset
        let place = withUnsafeBytes(of: UInt64(offset).bigEndian) { Array($0) }
        let length = withUnsafeBytes(of: UInt32(count).bigEndian) { Array($0) }
        return .message(
            WireFields().flag(1, end == bytes.count).number(2, Int64(count)),
            attachment: place + length + bytes[offset..<end])
    }

    /// The term in the list is the offer's.
    private static func list(_ reader: Int64, _ members: [PeerID]) -> [UInt8] {
        let leader = Leader(peer: members[1], term: reader % 10 == 8 ? 8 : 7)
        var list = WireFields().message(1, leader.meta(reader, members))
        for file in files { list = list.message(2, WireFields().text(1, file.name).message(2, WireFields())) }
        return list.encoded
    }

    /// Has the guest follow in term 7, with the configuration and `count` entries, one of which is committed.
    func lead(_ count: Int) throws {
        let entries = [leader().configuration(members)] + (0..<count).map { _ in leader().data(1) }
        let answer = try append(leader(), entries, after: (0, 0), commit: 1)
        #expect(answer.isSet(2) == true, "\(answer)")
    }

    func append(
        _ leader: Leader, _ entries: [WireFields] = [], after previous: (Int64, Int64), commit: Int64
    ) throws -> WireFields {
        let caller = try RawCaller(to: guest.address)
        let bytes = entries.reduce(0) { $0 + Int($1.integer(4) ?? 0) }
        let answer = try caller.call(
            "append_entries", leader.append(entries, after: previous, commit: commit, to: guest.peer),
            attachment: [UInt8](repeating: 0x61, count: bytes))
        #expect(answer.errorCode == 0, "\(answer.errorText)")
        return try #require(WireFields(answer.body))
    }

    /// An offer whose answer may take its time.
    final class Offer {
        private let caller: RawCaller
        private let id: Int64

        fileprivate init(_ caller: RawCaller, _ id: Int64) { (self.caller, self.id) = (caller, id) }

        func answer() throws -> BraftFrame { try caller.answer(to: id) }
    }

    /// Offers the snapshot at `index`; `uri` unless it is of the braft.
    func offer(_ index: Int64, term: Int64 = 7, group: String = "g", uri: String? = nil) throws -> Offer {
        let caller = try RawCaller(to: guest.address, timeoutMilliseconds: 30_000)
        var from = self.leader(term)
        from.group = group
        let body = from.snapshot(
            index, of: members, uri: uri ?? "remote://\(braft.address)/\(index)", to: guest.peer)
        return Offer(caller, caller.send(service: "braft.RaftService", method: "install_snapshot", body: body.encoded))
    }

    /// Offers it as often as the guest is busy, as braft does.
    func offerUntilTaken(_ index: Int64, term: Int64 = 7) async throws -> BraftFrame {
        let end = ContinuousClock.now + .seconds(30)
        while true {
            let answer = try offer(index, term: term).answer()
            guard answer.errorCode == 16, ContinuousClock.now < end else { return answer }
            try await Task.sleep(for: .milliseconds(100))
        }
    }

    func untilRead(_ name: String, of reader: Int64) async throws {
        let calls = await braft.wait { calls in
            calls.contains { $0.message.text(2) == name && $0.message.integer(1) == reader }
        }
        try #require(calls != nil, "\(name) of \(reader) is not asked for")
    }

    /// Says at last what was left unsaid of that reader.
    func release(_ reader: Int64) {
        trouble(reader, nil)
        for call in braft.calls("get_file") where call.message.integer(1) == reader && call.message.text(2) == "dir/b" {
            braft.answer(call, with: DownloadStage.part(of: DownloadStage.files[1].bytes, call.message))
        }
    }
}

/// What a braft's follower does with install_snapshot, step by step, over sockets: a real node that downloads.
@Suite("Snapshots of brafts, downloaded", .serialized, .timeLimit(.minutes(3)))
struct SnapshotDownloadTests {
    private func run(
        _ change: (inout NodeConfiguration) -> Void = { _ in }, entries: Int = 2,
        _ body: (DownloadStage) async throws -> Void
    ) async throws {
        let stage = try DownloadStage(change)
        defer { stage.close() }
        try await stage.guest.until("it is there") { $0.state == "follower" }
        try stage.lead(entries)
        try await body(stage)
    }

    private func isSuccess(_ answer: BraftFrame, term: Int64 = 7) -> Bool {
        answer.errorCode == 0 && WireFields(answer.body) == WireFields().number(1, term).flag(2, true)
    }

    @Test("8, 11, 12: all is read in braft's order; then the log begins behind it, with its members, for good")
    func unknownTerm() async throws {
        try await run { stage in
            let answer = try stage.offer(50).answer()
            #expect(isSuccess(answer), "\(answer)")
            let reads = stage.braft.calls("get_file").map { call in
                let request = call.message
                return "\(request.text(2) ?? "")@\(request.integer(4) ?? -1)+\(request.integer(3) ?? -1)"
            }
            #expect(
                reads == [
                    "__raft_snapshot_meta@0+4294967295", "a@0+131072", "dir/b@0+131072", "dir/b@131072+131072",
                ])
            try await stage.guest.until("it is in force") {
                $0.lastIndex.rawValue == 50 && $0.commitIndex.rawValue == 50 && $0.members == stage.members.sorted()
            }
            stage.guest.kill()
            try stage.guest.start()
            try await stage.guest.until("it is there again") {
                $0.lastIndex.rawValue == 50 && $0.members == stage.members.sorted() && $0.problem == nil
            }
            let next = try stage.append(stage.leader(), [stage.leader().data(1)], after: (7, 50), commit: 51)
            #expect(next.isSet(2) == true, "\(next)")
        }
    }

    @Test("12: a log that holds the snapshot's last entry stays, one that holds another there goes", arguments: [7, 8])
    func knownTerm(term: Int64) async throws {
        try await run(entries: 9) { stage in
            // its index says which term the list has
            let index: Int64 = term == 8 ? 8 : 4
            let answer = try stage.offer(index, term: term).answer()
            #expect(isSuccess(answer, term: term), "\(answer)")
            let last: Int64 = term == 8 ? 8 : 10
            try await stage.guest.until("it is in force") {
                $0.commitIndex.rawValue == index && $0.lastIndex.rawValue == last
            }
            let next = try stage.append(
                stage.leader(term), [stage.leader(term).data(1)], after: (term, last), commit: last + 1)
            #expect(next.isSet(2) == true, "\(next)")
        }
    }

    @Test(
        "9: the same offer takes over, an older one is refused, a newer one ends the download; 16 comes before its turn"
    )
    func others() async throws {
        try await run { stage in
            stage.trouble(50, .silence)
            let first = try stage.offer(50)
            try await stage.untilRead("dir/b", of: 50)
            let second = try stage.offer(50)
            #expect(try first.answer().errorCode == 4)
            #expect(try stage.offer(40).answer().errorCode == 22)
            #expect(try stage.offer(60).answer().errorCode == 16)
            #expect(try second.answer().errorCode == 125)
            let answer = try await stage.offerUntilTaken(60)
            #expect(isSuccess(answer), "\(answer)")
            try await stage.guest.until("the newer one is in force") { $0.lastIndex.rawValue == 60 }
        }
    }

    @Test("9: whoever takes over gets the answer, and what was read is not read again") func sameAgain() async throws {
        try await run { stage in
            stage.trouble(50, .silence)
            let first = try stage.offer(50)
            try await stage.untilRead("dir/b", of: 50)
            let second = try stage.offer(50)
            #expect(try first.answer().errorCode == 4)
            stage.release(50)
            #expect(isSuccess(try second.answer()))
            #expect(stage.braft.calls("get_file").count { $0.message.text(2) == "a" } == 1)
        }
    }

    @Test(
        "10: a file that cannot be read ends it with the reader's number, and the next offer is taken",
        arguments: [5, 2])
    func failure(code: Int64) async throws {
        try await run { stage in
            stage.trouble(50, .failure(code))
            let answer = try stage.offer(50).answer()
            #expect(answer.errorCode == code, "\(answer)")
            #expect(stage.braft.calls("get_file").count { $0.message.text(2) == "dir/b" } == 4)
            #expect(await stage.guest.status()?.lastIndex.rawValue == 3)
            stage.trouble(50, nil)
            #expect(isSuccess(try await stage.offerUntilTaken(50)))
        }
    }

    @Test("10: a reader that is not there is an error, and the log goes on") func noReader() async throws {
        try await run { stage in
            let nobody = LoopbackPorts.take(1)[0]
            let answer = try stage.offer(50, uri: "remote://\(nobody)/50").answer()
            #expect(answer.errorCode != 0 && answer.errorCode != 16, "\(answer)")
            let next = try stage.append(stage.leader(), [stage.leader().data(1)], after: (7, 3), commit: 4)
            #expect(next.isSet(2) == true, "\(next)")
            // the next offer may name another reader
            #expect(isSuccess(try await stage.offerUntilTaken(50)))
        }
    }

    @Test("4: another snapshot than the node takes at a time is 16") func throttle() async throws {
        try await run({
            $0.host.snapshotsReceived = 1
            $0.guests.append(GuestGroup(group: "h"))
        }) { stage in
            stage.trouble(50, .silence)
            let first = try stage.offer(50)
            try await stage.untilRead("dir/b", of: 50)
            #expect(try stage.offer(60, group: "h").answer().errorCode == 16)
            stage.release(50)
            #expect(isSuccess(try first.answer()))
        }
    }

    @Test("11: what the log has got to meanwhile is a success, and nothing goes back") func overtaken() async throws {
        try await run { stage in
            stage.trouble(4, .silence)
            let offer = try stage.offer(4)
            try await stage.untilRead("dir/b", of: 4)
            let entries = (0..<3).map { _ in stage.leader().data(1) }
            #expect(try stage.append(stage.leader(), entries, after: (7, 3), commit: 6).isSet(2) == true)
            try await stage.guest.until("the log is further") { $0.commitIndex.rawValue == 6 }
            stage.release(4)
            #expect(isSuccess(try offer.answer()))
            let status = await stage.guest.status()
            #expect(status?.lastIndex.rawValue == 6 && status?.commitIndex.rawValue == 6 && status?.problem == nil)
        }
    }

    @Test("12: a newer term does not end a download; the answer tells of it") func newerTerm() async throws {
        try await run { stage in
            stage.trouble(50, .silence)
            let offer = try stage.offer(50)
            try await stage.untilRead("dir/b", of: 50)
            let next = Leader(peer: PeerID(address: stage.other.address), term: 9)
            #expect(try stage.append(next, after: (7, 3), commit: 3).isSet(2) == true)
            stage.release(50)
            #expect(isSuccess(try offer.answer(), term: 9))
            try await stage.guest.until("it is in force") { $0.lastIndex.rawValue == 50 }
        }
    }

    @Test("7: a guest saves nothing by itself, so no offer meets a save") func saving() async throws {
        try await run { stage in
            let caller = try RawCaller(to: stage.guest.address)
            let answer = try caller.call("snapshot", of: "braft.CliService", WireFields().text(1, "g"))
            #expect(answer.errorCode == 22, "\(answer)")
            #expect(isSuccess(try stage.offer(50).answer()))
        }
    }
}
