import RaftCore
import Testing

@testable import RaftStorage

@Suite("Snapshots of guests")
struct GuestStatesTests {
    private let disk = MemoryDisk(seed: 5)
    private let meta = SnapshotMeta(
        last: LogPosition(term: Term(3), index: LogIndex(40)),
        configuration: Configuration(peers: [PeerID("10.0.0.1:8100:0")!, PeerID("10.0.0.2:8100:1:1")!]))
    /// Empty, of some parts, and with names that are no files of ours.
    private let files: [(String, Bytes)] = [
        ("%2E.", Bytes("dots")), ("9.guest", Bytes("not ours")), ("__raft_snapshot_meta", Bytes("list")),
        ("empty", Bytes()), ("large", Bytes([UInt8]((0..<700_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }))),
    ]

    private func folder(_ name: String) throws -> StoredFolder {
        try SnapshotStore(disk: try disk.folder("snapshots")).makeFolder(name)
    }

    private func states() throws -> GuestStates { try GuestStates(disk: try disk.folder("guests")) }

    private func incoming() throws -> StoredFolder {
        let incoming = try folder("in")
        for (name, bytes) in files { try incoming.append(bytes, to: name) }
        return incoming
    }

    private func install(_ number: UInt64) throws -> any SnapshotStateMachine {
        let states = try states()
        try disk.syncDirectory()
        return try states.install(try incoming(), as: number, group: "g", kind: "guest", expecting: meta)
    }

    @Test("What came is written again byte for byte, also by another life, and by one that holds what was dropped")
    func passedOn() throws {
        #expect(try install(7).appliedPosition == meta.last)
        disk.crash()
        let later = try states()
        let machine = try later.open(7, group: "g", birth: .empty)
        #expect(machine.appliedPosition == meta.last && machine.durableMeta() == meta && later.numbers() == [7])
        let frozen = try machine.freeze()
        #expect(frozen.meta == meta)
        let outgoing = try folder("out")
        let writer = try frozen.writer(to: outgoing, as: 0)
        #expect(try writer.write(about: 1000).isLast == false)
        try writer.writeAll()
        #expect(try outgoing.fileNames() == files.map(\.0))
        for (name, bytes) in files { #expect(try outgoing.contents(of: name) == bytes, "\(name)") }
        try later.drop(7)
        #expect(later.numbers().isEmpty && disk.exists("guests/7.guest") == false)
        #expect(throws: Never.self) { try later.drop(7) }
    }

    @Test("Entries leave the snapshot where it is") func applied() throws {
        let machine = try install(7)
        let entry = CommittedEntry(
            position: LogPosition(term: Term(3), index: LogIndex(41)), kind: .data, payload: Bytes("unread"))
        #expect(try machine.apply([entry]).map(\.count) == [0])
        #expect(machine.appliedPosition == entry.position)
        #expect(try machine.durableMeta() == meta)
        #expect(throws: StateMachineError.self) { try machine.read(Bytes()) }
        #expect(throws: StateMachineError.self) { try states().open(8, group: "g", birth: .empty).freeze() }
    }

    @Test("A part that was damaged is not passed on, nor another group's taken") func damaged() throws {
        _ = try install(7)
        #expect(throws: StateMachineError.self) { try states().open(7, group: "h", birth: .empty) }
        let file = try disk.folder("guests").open("7.guest")
        let wrong = UnsafeMutableRawBufferPointer.allocate(byteCount: 1, alignment: 1)
        defer { wrong.deallocate() }
        wrong[0] = 0xff
        try file.write([UnsafeRawBufferPointer(wrong)], at: 300_000)
        let frozen = try states().open(7, group: "g", birth: .empty).freeze()
        var found: StateMachineError?
        do throws(StateMachineError) {
            try frozen.writer(to: try SnapshotStore(disk: disk).makeFolder("out"), as: 0).writeAll()
        } catch {
            found = error
        }
        #expect(found?.isDamage == true, "\(String(describing: found))")
        try file.write([UnsafeRawBufferPointer(wrong)], at: 30)
        #expect(throws: StateMachineError.self) { try states().open(7, group: "g", birth: .empty) }
    }

    @Test("Room that the log needs is left") func room() throws {
        let guests = try disk.folder("guests")
        let free = try disk.freeBytes()
        let states = try GuestStates(disk: guests, minimumFreeBytes: free)
        #expect(throws: StateMachineError.self) {
            try states.install(try incoming(), as: 9, group: "g", kind: "guest", expecting: meta)
        }
        #expect(try guests.list().isEmpty)
    }

    /// Steps of `installer`, until it is over or `count` were taken; whether it is over.
    private func advance(_ installer: any SnapshotInstaller, _ count: Int = .max) throws -> Bool {
        for _ in 0..<count {
            if case .done(let machine) = try installer.advance(about: 100_000) {
                #expect(machine.appliedPosition == meta.last)
                return true
            }
        }
        return false
    }

    @Test("It is copied in steps; a crash behind each of them leaves what was there before, or the whole")
    func steps() throws {
        var isOver = false
        var count = 0
        while !isOver {
            let fixture = GuestStatesTests()
            _ = try fixture.install(7)
            let installer = try fixture.states().installer(
                of: try fixture.incoming(), as: 9, group: "g", kind: "guest", expecting: meta)
            isOver = try advance(try #require(installer), count)
            let draft = count > 0 && !isOver ? ["9.saving"] : []
            let names = try fixture.disk.folder("guests").list()
            #expect(names == (isOver ? ["7.guest", "9.guest"] : ["7.guest"]) + draft)
            try fixture.check(isOver ? [7, 9] : [7])
            count += 1
        }
        #expect(count > 3)
    }

    /// After a loss of power there are snapshots under `numbers`, whole, and nothing else.
    private func check(_ numbers: [UInt64]) throws {
        disk.crash()
        let states = try states()
        #expect(states.numbers() == numbers)
        #expect(try disk.folder("guests").list() == numbers.map { "\($0).guest" })
        for number in numbers {
            let outgoing = try folder("out-\(number)")
            try states.open(number, group: "g", birth: .empty).freeze().writer(to: outgoing, as: 0).writeAll()
            for (name, bytes) in files { #expect(try outgoing.contents(of: name) == bytes, "\(name)") }
        }
    }

    @Test("Power that fails at any write or sync of it leaves what was there before, or the whole")
    func powerFailures() throws {
        var hasFailed = true
        var changes = 0
        while hasFailed {
            let fixture = GuestStatesTests()
            _ = try fixture.install(7)
            let (states, incoming) = (try fixture.states(), try fixture.incoming())
            let installer = try #require(
                states.installer(of: incoming, as: 9, group: "g", kind: "guest", expecting: meta))
            hasFailed = false
            fixture.disk.failPower(after: changes) {}
            do { _ = try advance(installer) } catch { hasFailed = true }
            try fixture.check(hasFailed ? [7] : [7, 9])
            changes += 1
        }
        #expect(changes > 3)
    }

    @Test("A long one is synced on its way: the last step does not wait for all of it") func syncs() throws {
        let states = try states()
        let incoming = try folder("in")
        let part = Bytes([UInt8](repeating: 7, count: 1 << 20))
        for _ in 0..<18 { try incoming.append(part, to: "large") }
        let installer = try #require(
            states.installer(of: incoming, as: 9, group: "g", kind: "guest", expecting: meta))
        let before = disk.syncCount
        #expect(try !advance(installer, 66))
        #expect(disk.syncCount == before + 1)
        #expect(try advance(installer))
    }

    @Test("A full disk leaves what was there, and a draft of an earlier life goes") func unfinished() throws {
        _ = try install(7)
        let (states, incoming) = (try states(), try incoming())
        disk.isFull = true
        #expect(throws: StateMachineError.self) {
            try states.install(incoming, as: 9, group: "g", kind: "guest", expecting: meta)
        }
        disk.isFull = false
        #expect(states.numbers() == [7])
        #expect(try self.states().numbers() == [7])
        let guests = try disk.folder("guests")
        _ = try guests.create("11.saving")
        #expect(try self.states().numbers() == [7])
        #expect(try guests.list() == ["7.guest"])
    }
}
