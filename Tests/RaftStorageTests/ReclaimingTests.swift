import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: reclaiming") struct ReclaimingTests {
    /// Groups that write and are compacted, and one that wrote once and is idle for ever.
    private struct Workload {
        var model = Model()
        let groups: LogGroup
        private var index: [LogGroup: Int64] = [:]

        init(groups: LogGroup) {
            self.groups = groups
        }

        /// What every group has to say at the beginning.
        mutating func births() -> [LogWrite] {
            let writes = (1...groups).map {
                LogWrite(group: $0, hardState: state(1, vote: peer(1)), entries: [noOp(1, term: 1)], note: Bytes("n"))
            }
            for group in 1...groups { index[group] = 1 }
            model.apply(writes)
            return writes
        }

        /// One batch of the heavy writers, the last four groups: three entries each; every other one also compacts.
        mutating func round(_ number: Int) -> [LogWrite] {
            let writes = (groups - 3...groups).map { group in
                let last = index[group, default: 0]
                index[group] = last + 3
                var write = LogWrite(
                    group: group, entries: (1...3).map { data(last + $0, String(repeating: "x", count: 100)) })
                if (Int(group) + number) % 2 == 0 { write.start = .compact(base(last, term: 1)) }
                return write
            }
            model.apply(writes)
            return writes
        }
    }

    private func bytesOnDisk(_ disk: MemoryDisk) throws -> Int {
        try disk.list().filter { LogFormat.segmentNumber(of: $0) != nil }
            .reduce(0) { $0 + (disk.contents($1)?.count ?? 0) }
    }

    @Test func mostlyDeadLogIsBoundedThoughIdleGroupsPinIt() throws {
        let disk = MemoryDisk(seed: 1)
        let segmentBytes = 64 << 10
        let log = try Opened(disk, segmentBytes: segmentBytes).log
        var workload = Workload(groups: 1000)
        try log.write(workload.births())
        var (written, highest) = (0, 0)
        for round in 1...600 {
            try log.write(workload.round(round))
            if round % 20 == 0 {
                var usage = log.usage()
                if usage.isMostlyDead(segmentBytes: segmentBytes) {
                    written += try log.carryForward(maxBytes: 1 << 20).bytes
                }
                try log.reclaim()
                try log.deleteRetired()
                usage = log.usage()
                #expect(usage.liveBytes <= usage.totalBytes)
                #expect(try bytesOnDisk(disk) == usage.totalBytes)
                highest = max(highest, usage.totalBytes)
            }
        }
        // some 1 MB has been written; what is alive are 1000 small groups
        #expect(written > 0 && highest < 9 * segmentBytes, "\(written) \(highest)")
        #expect(log.usage().liveBytes == (try Opened(disk.copy(), segmentBytes: segmentBytes).log.usage().liveBytes))
        #expect(try Opened(disk, segmentBytes: segmentBytes).holds(workload.model))
    }

    @Test func usageNamesWhoPinsTheOldestSegment() throws {
        let log = try Opened(MemoryDisk(seed: 1)).log
        try log.write([LogWrite(group: 7, hardState: state(1)), LogWrite(group: 3, note: Bytes("note"))])
        #expect(log.usage().pins.isEmpty && log.usage().segments == 1)
        for index in 1...20 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        let pins = log.usage().pins
        #expect(pins.map(\.group) == [3, 7, 9] && pins.map(\.liveBytes) == [40, 36, 20 * 136])
        try log.write([LogWrite(group: 9, start: .compact(base(20, term: 1)))])
        #expect(log.usage().pins.map(\.group) == [3, 7])
        #expect(try log.reclaim() == 0)
        let carried = try log.carryForward(maxBytes: 1 << 20)
        #expect(carried.damaged.isEmpty && carried.bytes == 76)
        #expect(try log.reclaim() > 2 && log.usage().segments == 1)
    }

    @Test func everyCrashWhileReclaimingLosesNothing() throws {
        var crashes = 0
        for seed in 0..<4 as Range<UInt64> {
            for count in 0..<60 {
                let disk = MemoryDisk(seed: seed &* 100 &+ UInt64(count))
                var workload = Workload(groups: 6)
                let log = try Opened(disk).log
                try log.write(workload.births())
                for round in 1...6 { try log.write(workload.round(round)) }
                var failed = false
                if seed % 2 == 0 { disk.failSyncs(after: count) } else { disk.failPower(after: count) {} }
                do {
                    for round in 7...9 {
                        _ = try log.carryForward(maxBytes: 1 << 20)
                        try log.reclaim()
                        try log.deleteRetired()
                        let before = workload
                        do { try log.write(workload.round(round)) } catch {
                            // it may have made it as a whole: then the model of before does not hold
                            workload = before
                            throw error
                        }
                    }
                } catch { failed = true }
                disk.crash(seed < 2 ? .some : .everything)
                disk.failsSyncs = false
                guard failed else { continue }
                crashes += 1
                let opened = try Opened(disk)
                #expect(opened.damaged.isEmpty, "seed \(seed) count \(count)")
                let after = Model(groups: workload.model.groups)
                var next = workload
                let isWhole =
                    try opened.holds(after)
                    || (7...9).contains { round in
                        next = workload
                        return (try? opened.holds(after.applying(next.round(round)))) == true
                    }
                #expect(isWhole, "seed \(seed) count \(count)")
                try opened.log.deleteRetired()
                #expect(try bytesOnDisk(disk) == opened.log.totalBytes)
            }
        }
        #expect(crashes > 40, "\(crashes)")
    }

    @Test func filesOfReclaimedSegmentsAreRemovedByTheNextStart() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        for index in 1...30 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        try log.write([LogWrite(group: 9, start: .compact(base(30, term: 1)))])
        let count = try log.reclaim()
        #expect(count > 3)
        #expect(try log.reclaim() == 0)
        let total = log.totalBytes
        let opened = try Opened(disk)
        #expect(opened.findings.isEmpty && opened.log.totalBytes == total)
        try opened.log.deleteRetired()
        #expect(try opened.log.totalBytes == total - count * 1024 && bytesOnDisk(disk) == total - count * 1024)
        #expect(opened.groups[9]?.base == base(30, term: 1))
        // a manifest of before the reclaiming is an old one still
        let stale = disk.copy()
        let manifest = Manifest(identity: 7, segments: [])
        try manifest.store(on: stale)
        #expect(throws: StorageError.self) { try Opened(stale) }
    }

    @Test func fullDiskReclaimsNothingAndHarmsNothing() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        for index in 1...30 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        try log.write([LogWrite(group: 9, start: .compact(base(30, term: 1)))])
        disk.isFull = true
        #expect(try log.reclaim() == 0)
        disk.isFull = false
        #expect(try log.reclaim() > 3)
    }

    @Test func boundOfTheLogRefusesEntriesAndLetsTheRestThrough() throws {
        let disk = MemoryDisk(seed: 1)
        let (log, _) = try WriteAheadLog.open(
            disk: disk,
            settings: WriteAheadLog.Settings(segmentBytes: 1024, reserveBytes: 0, spaceBytes: 10 * 1024, identity: 7),
            log: { _ in })
        var index: Int64 = 0
        var wasTight = false
        do throws(StorageError) {
            while index < 200 {
                wasTight = log.isTight
                try log.write([LogWrite(group: 9, entries: [data(index + 1, String(repeating: "x", count: 100))])])
                index += 1
            }
            Issue.record("never refused")
        } catch {
            guard case .disk(.full(let path)) = error else {
                Issue.record("\(error)")
                return
            }
            #expect(path.contains("10240 bytes"))
        }
        #expect(wasTight && log.usage().isTight && index > 20 && log.totalBytes <= 8 * 1024)
        for term in 2...5 as ClosedRange<Int64> { try log.write([LogWrite(group: 9, hardState: state(term))]) }
        try log.write([LogWrite(group: 9, start: .compact(base(index, term: 1)))])
        #expect(try log.reclaim() > 3)
        try log.deleteRetired()
        #expect(!log.isTight)
        try log.write([LogWrite(group: 9, entries: [data(index + 1, "room again")])])
    }

    @Test func segmentWithUnsettledDamageStays() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write([LogWrite(group: 1, hardState: state(1), note: Bytes("first"))])
        for index in 1...30 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        try log.write([LogWrite(group: 9, start: .compact(base(30, term: 1)))])
        try log.close()
        let bytes = try #require(disk.contents(segmentName(1)))
        disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("first".utf8))).lowerBound)
        let opened = try Opened(disk)
        #expect(opened.damaged == [1])
        #expect(try opened.log.reclaim() == 0)
        #expect(try Opened(disk.copy()).damaged == [1])
        // until it is buried
        try opened.log.write([
            LogWrite(
                group: 1, hardState: .initial, debt: .zero, start: .reset(base(1, term: 1)), note: Bytes("gone"))
        ])
        #expect(try Opened(disk.copy()).damaged.isEmpty)
        #expect(try opened.log.reclaim() > 3)
        #expect(try Opened(disk).groups[1]?.note == Bytes("gone"))
    }

    @Test func carryingForwardSkipsWhatCannotBeRead() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write([LogWrite(group: 1, entries: [data(1, "broken")]), LogWrite(group: 2, entries: [data(1, "b")])])
        for index in 1...10 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 200))])])
        }
        let bytes = try #require(disk.contents(segmentName(1)))
        disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("broken".utf8))).lowerBound)
        let carried = try log.carryForward(maxBytes: 1 << 20)
        #expect(carried.damaged == [1] && log.usage().pins.map(\.group) == [1])
    }

    @Test(arguments: [1 << 20, 1000]) func groupWithoutEntriesIsCarriedForwardHoweverLarge(maxBytes: Int) throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        let large = Bytes(String(repeating: "n", count: 300 << 10))
        try log.write([LogWrite(group: 0, note: large), LogWrite(group: 1, note: Bytes("small"))])
        try log.write([LogWrite(group: 2, note: Bytes(String(repeating: "x", count: 5000)))])
        let carried = try log.carryForward(maxBytes: maxBytes)
        #expect(carried.bytes >= large.count)
        // one that is larger than allowed goes alone
        #expect(log.usage().pins.map(\.group) == (maxBytes < large.count ? [1] : []))
        if maxBytes < large.count { #expect(try log.carryForward(maxBytes: maxBytes).bytes < maxBytes) }
        #expect(try log.reclaim() > 0)
        #expect(try Opened(disk).groups[0]?.note == large && Opened(disk).groups[1]?.note == Bytes("small"))
    }
}
