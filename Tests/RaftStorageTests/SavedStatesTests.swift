import RaftCore
import Testing

@testable import RaftStorage

/// A list of words that only grows; a command is a word.
private final class Words: VolatileStateMachine, @unchecked Sendable {
    private(set) var words: [String] = []

    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes] {
        for entry in entries where entry.kind == .data {
            guard entry.payload.text != "fail" else { throw StateMachineError("told to fail") }
            words.append(entry.payload.text)
        }
        return entries.map { _ in Bytes() }
    }

    func read(_ query: Bytes) -> Bytes { Bytes(words.joined(separator: " ")) }
    func frozen() -> any StatePieces { EncodedPieces(words) { Bytes($0) } }

    func restore(from pieces: inout any StatePieces) throws(StateMachineError) {
        while let piece = try pieces.next() {
            guard piece.text != "unknown" else { throw StateMachineError("no such word") }
            words.append(piece.text)
        }
    }
}

private final class Sentences: Sendable {
    private let lock = Lock()
    nonisolated(unsafe) private var sentences: [String] = []
    func append(_ sentence: String) { lock.withLock { sentences.append(sentence) } }
    var all: [String] { lock.withLock { sentences } }
}

@Suite("States of volatile state machines")
struct SavedStatesTests {
    private let birth = Configuration(peers: [PeerID("10.0.0.1:8100:0")!, PeerID("10.0.0.2:8100:0")!])
    private let heard = Sentences()

    private func open(_ disk: any Disk) throws -> SavedStates {
        try SavedStates(disk: disk, makers: ["g": { Words() }, "h": { Words() }]) { [heard] in heard.append($0) }
    }

    private func machine(_ disk: any Disk, _ number: UInt64 = 5, group: String = "g") throws -> SnapshottedStateMachine
    {
        try open(disk).open(number, group: group, birth: birth)
    }

    private func apply(_ words: String..., to machine: SnapshottedStateMachine) throws {
        for word in words {
            let position = LogPosition(term: Term(2), index: machine.appliedPosition.index.next)
            _ = try machine.apply([CommittedEntry(position: position, kind: .data, payload: Bytes(word))])
        }
    }

    private func words(_ machine: SnapshottedStateMachine) throws -> String { try machine.read(Bytes()).text }

    /// A disk on which number 5 has `one` saved, and then `one two`.
    private func disk() throws -> MemoryDisk {
        let disk = MemoryDisk(seed: 1)
        let machine = try machine(disk)
        for word in ["one", "two"] {
            try apply(word, to: machine)
            try machine.beginSave().finish()
        }
        #expect(try disk.list() == ["5-1.state", "5-2.state"])
        return disk
    }

    // MARK: saving and opening

    @Test("What was saved last is there after a loss of power, with its position and its members")
    func roundTrip() throws {
        let disk = MemoryDisk(seed: 1)
        let born = try machine(disk)
        #expect(born.appliedPosition == .zero && born.durableMeta() == nil)
        let members = Configuration(peers: [PeerID("10.0.0.3:8100:1")!])
        let position = LogPosition(term: Term(1), index: LogIndex(1))
        _ = try born.apply([
            CommittedEntry(position: position, kind: .configuration, payload: Bytes(), configuration: members)
        ])
        let long = String(repeating: "x", count: 600_000)
        try apply("one", "", long, "", to: born)
        try born.beginSave().finish()
        try apply("lost", to: born)
        disk.crash(.everything)
        let restored = try machine(disk)
        #expect(restored.appliedPosition == LogPosition(term: Term(2), index: LogIndex(5)))
        #expect(restored.durableMeta() == SnapshotMeta(last: restored.appliedPosition, configuration: members))
        #expect(try words(restored) == "one  \(long) ")
        #expect(heard.all == [])
    }

    @Test("In the file system too") func inTheFileSystem() throws {
        let directory = try TemporaryDirectory()
        let machine = try machine(try PosixDisk(directory: directory.path))
        try apply("one", "two", to: machine)
        try machine.beginSave().finish()
        #expect(try words(self.machine(try PosixDisk(directory: directory.path))) == "one two")
    }

    @Test("What is applied while a picture is written is not in it") func frozen() throws {
        let disk = MemoryDisk(seed: 1)
        let machine = try machine(disk)
        try apply("one", to: machine)
        let save = try machine.beginSave()
        try apply("two", to: machine)
        try save.finish()
        #expect(try words(machine) == "one two")
        #expect(try words(self.machine(disk)) == "one")
    }

    @Test("A large state is written in parts, and does not count before the last") func parts() throws {
        let disk = MemoryDisk(seed: 1)
        let machine = try machine(disk)
        for _ in 0..<20 { try apply(String(repeating: "y", count: 100_000), to: machine) }
        let save = try machine.beginSave()
        var writes = 1
        while try !save.write(atLeast: 300_000) {
            #expect(machine.durableMeta() == nil)
            #expect(save.byteCount <= writes * 700_000)
            writes += 1
        }
        #expect((3...7).contains(writes))
        #expect(machine.durableMeta()?.last == machine.appliedPosition)
    }

    @Test("Of each number the newest state is kept and the one before; numbers know nothing of each other")
    func numbers() throws {
        let disk = try disk()
        let states = try open(disk)
        let machine = try states.open(5, group: "g", birth: birth)
        try apply("three", to: machine)
        try machine.beginSave().finish()
        let other = try states.open(7, group: "h", birth: birth)
        try apply("other", to: other)
        try other.beginSave().finish()
        #expect(try disk.list() == ["5-2.state", "5-3.state", "7-1.state"])
        #expect(states.numbers() == [5, 7])
        try states.drop(5)
        try states.drop(6)
        #expect(states.numbers() == [7])
        #expect(try disk.list() == ["7-1.state"])
    }

    @Test("Nothing is frozen before anything is applied, or once applying has failed") func nothingToFreeze() throws {
        let machine = try machine(MemoryDisk(seed: 1))
        #expect(throws: StateMachineError.self) { try machine.beginSave() }
        try apply("one", to: machine)
        _ = try machine.beginSave()
        #expect(throws: StateMachineError.self) { try apply("fail", to: machine) }
        #expect(throws: StateMachineError.self) { try machine.beginSave() }
        #expect(throws: StateMachineError.self) { try machine.freeze() }
    }

    // MARK: faults

    @Test("A loss of power at any step of saving leaves the state before or the new one, and no rubbish")
    func crashes() throws {
        var steps = 0
        while true {
            for seed in 1...20 as ClosedRange<UInt64> {
                let disk = try disk().copy(seed: seed)
                let machine = try machine(disk)
                try apply("three", to: machine)
                disk.failPower(after: steps) {}
                var isSaved = false
                do { isSaved = try machine.beginSave().write(atLeast: .max / 2) } catch {}
                disk.crash(.some)
                let restored = try self.machine(disk)
                let found = try words(restored)
                #expect(found == "one two three" || (found == "one two" && !isSaved), "step \(steps), seed \(seed)")
                #expect(try disk.list().allSatisfy { $0.hasSuffix(".state") })
                if isSaved, seed == 20 { return }
            }
            steps += 1
            try #require(steps < 100)
        }
    }

    @Test("A disk that is full or fails leaves what was saved before; the next try finds no trace of it")
    func failures() throws {
        let disk = try disk()
        let machine = try machine(disk)
        try apply("three", to: machine)
        func failed() throws {
            let save = try machine.beginSave()
            #expect(throws: StateMachineError.self) { try save.finish() }
            save.abandon()
            #expect(try disk.list() == ["5-1.state", "5-2.state"])
            #expect(machine.durableMeta()?.last.index == LogIndex(2))
        }
        disk.isFull = true
        try failed()
        disk.isFull = false
        disk.failWrites(1)
        try failed()
        disk.failSyncs(after: 0)
        try failed()
        disk.failsSyncs = false
        try machine.beginSave().finish()
        #expect(try words(self.machine(disk)) == "one two three")
    }

    @Test("Any flipped bit of the newest state is noticed and named, and the state before is used") func flips() throws
    {
        let whole = try disk()
        let size = try #require(whole.contents("5-2.state")).count
        for bit in 0..<size * 8 {
            let disk = whole.copy()
            disk.flipBit("5-2.state", offset: bit / 8, bit: bit % 8)
            let count = heard.all.count
            #expect(try words(machine(disk)) == "one", "bit \(bit)")
            #expect(heard.all.count == count + 1 && heard.all.last?.contains("5-2.state cannot be used") == true)
        }
    }

    @Test("A state that is cut, empty, of another group, or followed by something is none") func otherFiles() throws {
        let whole = try disk()
        let bytes = try #require(whole.contents("5-2.state"))
        for count in bytes.indices {
            let disk = whole.copy()
            disk.shorten("5-2.state", to: count)
            #expect(try words(machine(disk)) == "one", "\(count) bytes")
        }
        let disk = whole.copy()
        disk.setContents("5-2.state", bytes + [0])
        #expect(try words(machine(disk)) == "one")
        #expect(try machine(disk, group: "h").appliedPosition == .zero)
        #expect(heard.all.last?.contains("it is of the group g") == true)
    }

    @Test("With no state that can be read the beginning is empty, and what is saved next replaces the damaged ones")
    func nothingLeft() throws {
        let disk = try disk()
        for name in ["5-1.state", "5-2.state"] { disk.flipBit(name, offset: 30) }
        let machine = try machine(disk)
        #expect(machine.appliedPosition == .zero && machine.durableMeta() == nil)
        #expect(heard.all.count == 2)
        try apply("one", to: machine)
        try machine.beginSave().finish()
        #expect(try disk.list() == ["5-1.state"])
        #expect(try words(self.machine(disk)) == "one")
    }

    @Test("A state that its state machine does not understand, or of a newer format, is named and passed over")
    func notUnderstood() throws {
        let disk = try disk()
        let machine = try machine(disk)
        try apply("unknown", to: machine)
        try machine.beginSave().finish()
        #expect(try words(self.machine(disk)) == "one two")
        #expect(heard.all.last?.contains("no such word") == true)
        var newer = try #require(disk.contents("5-2.state"))
        newer[12] = 3
        disk.setContents("5-9.state", newer)
        #expect(try words(self.machine(disk)) == "one two")
        #expect(heard.all.contains { $0.contains("format 3, which is newer") })
    }

    // MARK: on its way to another node

    private func sent(_ machine: SnapshottedStateMachine) throws -> (folder: StoredFolder, meta: SnapshotMeta) {
        let frozen = try machine.freeze()
        let folder = try SnapshotStore(disk: MemoryDisk(seed: 2)).makeFolder("in")
        try frozen.writer(to: folder, as: 8).writeAll()
        return (folder, frozen.meta)
    }

    @Test("What another node froze is installed durably under a number of its own") func installs() throws {
        let (folder, meta) = try sent(try machine(try disk()))
        let disk = MemoryDisk(seed: 3)
        let states = try open(disk)
        let installed = try states.install(folder, as: 8, group: "g", kind: "", expecting: meta)
        #expect(try installed.read(Bytes()).text == "one two" && installed.appliedPosition == meta.last)
        #expect(try installed.durableMeta() == meta)
        disk.crash(.everything)
        #expect(try words(machine(disk, 8)) == "one two")
    }

    @Test("What is damaged, not what was expected, or of nobody leaves nothing behind") func installsNothingElse()
        throws
    {
        let machine = try machine(try disk())
        let (folder, meta) = try sent(machine)
        let disk = MemoryDisk(seed: 3)
        let states = try open(disk)
        var other = meta
        other.last.index = LogIndex(1)
        #expect(throws: StateMachineError.self) {
            try states.install(folder, as: 8, group: "g", kind: "", expecting: other)
        }
        for group in ["h", "nobody's"] {
            #expect(throws: StateMachineError.self) {
                try states.install(folder, as: 8, group: group, kind: "", expecting: meta)
            }
        }
        try folder.write(Bytes("?"), to: "state", at: Int(try folder.contents(of: "state").count) - 10)
        #expect(throws: StateMachineError.self) {
            try states.install(folder, as: 8, group: "g", kind: "", expecting: meta)
        }
        try apply("unknown", to: machine)
        let (strange, strangeMeta) = try sent(machine)
        #expect(throws: StateMachineError.self) {
            try states.install(strange, as: 8, group: "g", kind: "", expecting: strangeMeta)
        }
        #expect(try disk.list() == [] && states.numbers() == [])
    }

    // MARK: the format

    @Test("The format is pinned") func golden() throws {
        let bytes = try #require(try disk().contents("5-2.state"))
        let hex = bytes.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        let expected = [
            "464c4f5453544154",  // FLOTSTAT
            "413a2d6f",  // checksum
            "02000000",  // version
            "53000000",  // length of the body
            "0200000000000000",  // term
            "0200000000000000",  // index
            "0100000067",  // group
            SavedStatesTests.members,
            "01000000486b33ba4841fb05",  // hash
            "e0aea42d030000006f6e65",  // one
            "e4fc7f280300000074776f",  // two
            "2bd3c48fffffffff",  // end
        ]
        #expect(hex == expected.joined())
    }

    private static let members =
        "020000001100000031302e302e302e313a383130303a303a30" + "1100000031302e302e302e323a383130303a303a30" + "00000000"

    @Test("A file of version 1 is read and has no hash, nor has what comes of it; it is saved as version 1 again")
    func versionOne() throws {
        let hex = Array(
            "464c4f5453544154" + "0b09fcfd" + "01000000" + "47000000" + "0200000000000000" + "0200000000000000"
                + "0100000067" + SavedStatesTests.members + "ae3b8fc6030000006f6e65" + "8e60db640300000074776f"
                + "670605f3ffffffff")
        let bytes = stride(from: 0, to: hex.count, by: 2).compactMap { UInt8(String(hex[$0..<$0 + 2]), radix: 16) }
        let disk = MemoryDisk(seed: 1)
        disk.setContents("5-2.state", bytes)
        let machine = try machine(disk)
        #expect(try words(machine) == "one two" && machine.appliedPosition.index == LogIndex(2))
        try apply("three", to: machine)
        #expect(machine.latestHash == nil && heard.all.isEmpty)
        try machine.beginSave().finish()
        #expect(disk.contents("5-3.state")?[12] == 1)
        #expect(try words(self.machine(disk)) == "one two three")
    }

    @Test("The hash of what was applied goes on where a saved state left it, and tells another reply")
    func hash() throws {
        let disk = try disk()
        let (saved, whole) = (try machine(disk), try machine(MemoryDisk(seed: 2)))
        try apply("one", "two", to: whole)
        #expect(saved.latestHash != nil && saved.latestHash == whole.latestHash)
        #expect(saved.latestHash?.index == LogIndex(2))
        try apply("three", to: saved)
        try apply("three", to: whole)
        #expect(saved.latestHash == whole.latestHash)
        #expect(whole.appliedHash(at: LogIndex(1)) != nil && saved.appliedHash(at: LogIndex(1)) == nil)
        try apply("four", to: saved)
        try apply("five", to: whole)
        #expect(saved.latestHash != whole.latestHash)
    }
}
