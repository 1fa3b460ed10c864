import RaftCore
import RaftStorage
import Testing

@testable import RaftHost

@Suite("NodeDirectory")
struct NodeDirectoryTests {
    private let home = NodeAddress(ip: 10 << 24 | 1, port: 8100)
    private let file = "IDENTITY"

    private func open(
        _ disk: MemoryDisk, at address: NodeAddress? = nil, promise: Interval = .milliseconds(1000)
    ) throws(DirectoryError) -> NodeDirectory {
        try NodeDirectory(disk: disk, address: address ?? home, freshIncarnation: 77, promise: promise)
    }

    /// The error that opening `disk` ends in; nil if it does not.
    private func failure(_ disk: MemoryDisk, at address: NodeAddress? = nil) -> DirectoryError? {
        do throws(DirectoryError) {
            _ = try open(disk, at: address)
            return nil
        } catch {
            return error
        }
    }

    @Test("A fresh one is in its first run and belongs to no cluster") func fresh() throws {
        let identity = try open(MemoryDisk(seed: 1)).identity
        #expect(
            identity
                == NodeIdentity(
                    incarnation: 77, runNumber: 1, address: home, clusterID: 0, nodeID: 0, bootstrap: nil,
                    longestPromise: .milliseconds(1000)))
    }

    @Test("Every opening counts a run, keeps the incarnation, and survives the loss of power at once")
    func runsCount() throws {
        let disk = MemoryDisk(seed: 1)
        for run in 1...5 as ClosedRange<UInt64> {
            let directory = try NodeDirectory(
                disk: disk, address: home, freshIncarnation: 100 + run, promise: .milliseconds(1000))
            #expect(directory.identity.runNumber == run)
            #expect(directory.identity.incarnation == 101)
            disk.crash()
        }
    }

    @Test("The longest promise that a run can have given is remembered, however short those of later runs")
    func longestPromise() throws {
        let disk = MemoryDisk(seed: 1)
        for (given, longest) in [(1000, 1000), (10_000, 10_000), (500, 10_000), (500, 10_000)] {
            let identity = try open(disk, promise: .milliseconds(given)).identity
            #expect(identity.longestPromise == .milliseconds(longest))
            disk.crash()
        }
    }

    @Test("What it joined survives the loss of power") func join() throws {
        let disk = MemoryDisk(seed: 1)
        try open(disk).join(clusterID: 5, nodeID: 0, bootstrap: nil)
        disk.crash()
        let again = try open(disk)
        #expect(again.identity.clusterID == 5 && again.identity.nodeID == 0)
        try again.join(clusterID: 5, nodeID: 3, bootstrap: nil)
        disk.crash()
        #expect(try open(disk).identity.nodeID == 3)
    }

    @Test("Whenever the power fails during a start, the next run has a number never used before")
    func tornStart() throws {
        for syncs in 0..<4 {
            for seed in 0..<8 as Range<UInt64> {
                let disk = MemoryDisk(seed: seed)
                #expect(try open(disk).identity.runNumber == 1)
                disk.failSyncs(after: syncs)
                let second = try? open(disk)
                disk.failsSyncs = false
                disk.crash()
                let run = try open(disk).identity.runNumber
                #expect(second == nil ? run == 2 || run == 3 : run == 3, "\(syncs) syncs, seed \(seed)")
            }
        }
    }

    @Test("Another address is refused, and told the way out") func otherAddress() throws {
        let disk = MemoryDisk(seed: 1)
        _ = try open(disk)
        let other = NodeAddress(ip: 10 << 24 | 2, port: 8100)
        let error = try #require(failure(disk, at: other))
        guard case .otherAddress(_, recorded: home, asked: other) = error else {
            Issue.record("\(error)")
            return
        }
        #expect(error.description.contains("start it as 10.0.0.1:8100"))
        #expect(try open(disk).identity.runNumber == 2, "a refused start counts no run")
    }

    @Test("Damage to any byte is noticed") func damage() throws {
        let disk = MemoryDisk(seed: 1)
        _ = try open(disk)
        let count = try #require(disk.contents(file)).count
        for offset in 0..<count {
            let copy = disk.copy()
            copy.flipBit(file, offset: offset, bit: offset % 8)
            guard case .damaged(let path, _) = failure(copy) else {
                Issue.record("byte \(offset) was not missed")
                continue
            }
            #expect(path.hasSuffix(file))
        }
    }

    @Test("A file that is cut short is damage", arguments: [0, 1, 15, 16, 20]) func short(count: Int) throws {
        let disk = MemoryDisk(seed: 1)
        _ = try open(disk)
        disk.shorten(file, to: count)
        guard case .damaged = failure(disk) else {
            Issue.record("opened with \(count) bytes")
            return
        }
    }

    @Test("A newer format is refused by its number") func newerFormat() throws {
        let disk = MemoryDisk(seed: 1)
        _ = try open(disk)
        var content = try #require(disk.contents(file))
        // the message begins with field 1, the format
        #expect(content[16] == 0x08 && content[17] == 1)
        content[17] = 2
        let crc = CRC32C.checksum(Bytes(Array(content[16...])))
        for (position, shift) in [24, 16, 8, 0].enumerated() {
            content[12 + position] = UInt8(truncatingIfNeeded: crc >> UInt32(shift))
        }
        disk.setContents(file, content)
        guard case .newerFormat(_, found: 2) = failure(disk) else {
            Issue.record("opened")
            return
        }
    }

    @Test("A disk that fails is said to fail") func failedDisk() {
        let disk = MemoryDisk(seed: 1)
        disk.failsSyncs = true
        guard case .disk = failure(disk) else {
            Issue.record("opened")
            return
        }
    }
}
