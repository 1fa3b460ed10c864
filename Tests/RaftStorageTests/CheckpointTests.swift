import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: the checkpoint") struct CheckpointTests {
    /// The sample log with a checkpoint after some of its batches.
    private func sample(checkpointAfter count: Int) throws -> (disk: MemoryDisk, model: Model) {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        var model = Model()
        for (number, batch) in SampleLog.batches.enumerated() {
            if number == count { #expect(try log.checkpoint()) }
            try log.write(batch)
            model.apply(batch)
        }
        if count == SampleLog.batches.count { #expect(try log.checkpoint()) }
        try log.close()
        return (disk, model)
    }

    @Test(arguments: 1...15) func checkpointAndTailAreTheWholeLog(count: Int) throws {
        let (disk, model) = try sample(checkpointAfter: count)
        for _ in 1...2 {
            let opened = try Opened(disk)
            #expect(try opened.holds(model) && opened.findings.isEmpty)
            // and what is alive is counted the same without it
            let bare = disk.copy()
            bare.lose("CHECKPOINT")
            #expect(try Opened(bare).log.usage() == opened.log.usage())
        }
        // it goes on from there
        let opened = try Opened(disk)
        let batch = [LogWrite(group: 1, entries: [data(6, term: 7, "six")])]
        try opened.log.write(batch)
        #expect(try Opened(disk).holds(model.applying(batch)))
    }

    @Test func nothingToWriteIsSaid() throws {
        let disk = MemoryDisk(seed: 0)
        #expect(try !Opened(disk).log.checkpoint())
        #expect(!disk.exists("CHECKPOINT"))
    }

    @Test func segmentsBeforeItAreNotReadAtTheStart() throws {
        let (disk, model) = try sample(checkpointAfter: 15)
        let bytes = try #require(disk.contents(segmentName(1)))
        disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("zwei".utf8))).lowerBound)
        let opened = try Opened(disk)
        #expect(opened.damaged.isEmpty && opened.findings.isEmpty)
        // who reads it notices
        #expect(try opened.log.firstDamagedIndex(of: 2) == LogIndex(2))
        #expect(try opened.contents(of: 5) == model[5])
        disk.lose("CHECKPOINT")
        #expect(try Opened(disk).damaged == [2])
    }

    @Test func damageThatItIncludesCostsNothingAndLaterDamageDoes() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk, segmentBytes: 4096).log
        try log.write([LogWrite(group: 1, hardState: state(1), note: Bytes("before"))])
        try log.checkpoint()
        try log.write([LogWrite(group: 1, note: Bytes("behind"))])
        try log.close()
        for (text, damaged) in [("before", []), ("behind", [1])] as [(String, [LogGroup])] {
            let copy = disk.copy()
            let bytes = try #require(copy.contents(segmentName(1)))
            copy.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array(text.utf8))).lowerBound)
            let opened = try Opened(copy, segmentBytes: 4096)
            #expect(opened.damaged == damaged && opened.groups[1]?.hardState == state(1))
        }
    }

    @Test func everyFlippedBitOfItMeansReadingEverything() throws {
        let (disk, model) = try sample(checkpointAfter: 12)
        let count = try #require(disk.contents("CHECKPOINT")).count
        for offset in stride(from: 0, to: count, by: 3) {
            let copy = disk.copy()
            copy.flipBit("CHECKPOINT", offset: offset, bit: offset % 8)
            let opened = try Opened(copy)
            #expect(opened.findings.count == 1 && opened.findings[0].contains("checkpoint-ignored"), "\(offset)")
            #expect(try opened.holds(model) && !copy.exists("CHECKPOINT"))
        }
        for size in [0, 1, 31, 32, 40, count - 1] {
            let copy = disk.copy()
            copy.shorten("CHECKPOINT", to: size)
            #expect(try Opened(copy).holds(model), "\(size)")
        }
    }

    @Test func missingSegmentBeforeItIsDamageAsEver() throws {
        let (disk, _) = try sample(checkpointAfter: 15)
        disk.lose(segmentName(1))
        let opened = try Opened(disk)
        #expect(opened.damaged == [0, 1, 2, 5])
        #expect(opened.findings[0].contains("segment 1 is missing"))
    }

    @Test func checkpointOfAnotherLogIsIgnoredAndANewerOneRefused() throws {
        let (disk, model) = try sample(checkpointAfter: 12)
        let scratch = Scratch()
        Checkpoint.encodeHead(identity: 8, segment: 1, into: scratch)
        Checkpoint.encodeBlock([], into: scratch)
        let other = disk.copy()
        other.setContents("CHECKPOINT", Array(scratch.bytes))
        #expect(try Opened(other).holds(model))
        var bytes = try #require(disk.contents("CHECKPOINT"))
        bytes[8] = 3
        let checksum = bytes.withUnsafeBytes { sealedChecksum(of: $0.part(0..<32)) }
        for byte in 0..<4 { bytes[12 + byte] = UInt8(truncatingIfNeeded: checksum >> (8 * UInt32(byte))) }
        disk.setContents("CHECKPOINT", bytes)
        #expect(throws: StorageError.newerFormat(file: "CHECKPOINT", found: 3, known: 2)) { try Opened(disk) }
    }

    @Test func thereIsNoneWhileDamageIsNotSettled() throws {
        let sample = try SampleLog(sealed: true)
        let bytes = try #require(sample.disk.contents(segmentName(1)))
        sample.disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("zwei".utf8))).lowerBound)
        let opened = try Opened(sample.disk)
        #expect(try !opened.log.checkpoint())
        try opened.log.write([LogWrite(group: 2, debt: .zero)])
        #expect(try opened.log.checkpoint())
        #expect(try Opened(sample.disk).damaged.isEmpty)
    }

    @Test func reclaimingBeyondItGivesItUp() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        var model = Model()
        func write(_ write: LogWrite) throws {
            try log.write([write])
            model.apply([write])
        }
        try write(LogWrite(group: 9, entries: [data(1, "one")]))
        try log.checkpoint()
        for index in 2...30 as ClosedRange<Int64> {
            try write(LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))]))
        }
        try write(LogWrite(group: 9, start: .compact(base(30, term: 1))))
        #expect(try log.reclaim() > 3)
        #expect(!disk.exists("CHECKPOINT"))
        #expect(try Opened(disk.copy()).holds(model))
        try log.checkpoint()
        try log.reclaim()
        #expect(disk.exists("CHECKPOINT"))
        #expect(try Opened(disk).holds(model))
    }

    @Test func manyGroupsOpenWithAndWithoutIt() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk, segmentBytes: 1 << 18).log
        var model = Model()
        for start in stride(from: 1, through: 2000, by: 500) as StrideThrough<LogGroup> {
            let batch = (start..<start + 500).map { group in
                LogWrite(group: group, hardState: state(1), entries: (1...5).map { data($0, "entry \($0)") })
            }
            try log.write(batch)
            model.apply(batch)
        }
        try log.checkpoint()
        #expect(try Opened(disk.copy(), segmentBytes: 1 << 18).holds(model))
        disk.lose("CHECKPOINT")
        #expect(try Opened(disk, segmentBytes: 1 << 18).holds(model))
    }

    @Test(arguments: [true, false]) func batchThatItIncludesIsNoTornTail(isTorn: Bool) throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk, segmentBytes: 4096).log
        try log.write([LogWrite(group: 1, entries: [data(1, "one")])])
        let end = contentEnd(try #require(disk.contents(segmentName(1))))
        try log.write([LogWrite(group: 1, entries: [data(2, "two")])])
        try log.checkpoint()
        if isTorn {
            disk.flipBit(segmentName(1), offset: contentEnd(try #require(disk.contents(segmentName(1)))) - 1)
        } else {
            disk.zero(segmentName(1), from: end)
        }
        // its number would be given again, and the checkpoint would hide what is written under it
        for _ in 1...2 {
            let opened = try Opened(disk, segmentBytes: 4096)
            #expect(opened.damaged == [0, 1])
            #expect(throws: StorageError.self) {
                try opened.log.write([LogWrite(group: 1, debt: .zero, entries: [data(2, "again")])])
            }
        }
    }

    /// A log whose first segments are reclaimed, and with them entries that the checkpoint still names. The record of
    /// their compaction lies behind the checkpoint.
    @Test func entriesInReclaimedSegmentsAreNotKept() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        try log.write([LogWrite(group: 1, hardState: state(1), entries: (1...3).map { data($0, "entry \($0)") })])
        for index in 1...30 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        try log.write([
            LogWrite(group: 1, hardState: state(2)), LogWrite(group: 9, start: .compact(base(30, term: 1))),
        ])
        try log.checkpoint()
        try log.write([LogWrite(group: 1, start: .compact(base(3, term: 1)), entries: [data(4, "four")])])
        let place = try #require(log.groupLog(of: 1)?.entries.base?.location)
        #expect(try log.reclaim() > 3 && disk.exists("CHECKPOINT"))
        try log.close()
        disk.flipBit(segmentName(Int(place.segment)), offset: Int(place.offset) + 20)
        let opened = try Opened(disk)
        #expect(opened.damaged == [1])
        let debt = LogPosition(term: Term(1), index: LogIndex(4))
        guard case .entries(debt, _)? = opened.groups[1]?.damage else {
            Issue.record("\(String(describing: opened.groups[1]?.damage))")
            return
        }
        #expect(try opened.contents(of: 1) == ModelGroup(hardState: state(2)))
        try opened.log.write([LogWrite(group: 1, debt: debt)])
        let again = try Opened(disk)
        #expect(try again.damaged.isEmpty && again.contents(of: 1) == ModelGroup(hardState: state(2), debt: debt))
    }

    @Test func whatLiesInUnlistedSegmentsIsLostAndStaysTold() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk).log
        try log.write([
            LogWrite(group: 1, hardState: state(1)),
            LogWrite(group: 2, entries: (1...4).map { data($0, "entry \($0)") }),
        ])
        try log.write([LogWrite(group: 2, start: .compact(base(2, term: 1)))])
        for index in 1...30 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        try log.write([
            LogWrite(group: 2, hardState: state(2)), LogWrite(group: 9, start: .compact(base(30, term: 1))),
        ])
        try log.checkpoint()
        try log.close()
        var manifest = try #require(try Manifest.load(from: disk))
        manifest.segments.removeFirst()
        try manifest.store(on: disk)
        for _ in 1...2 {
            let opened = try Opened(disk)
            #expect(opened.damaged == [1, 2])
            guard case .promises? = opened.groups[1]?.damage else {
                Issue.record("\(String(describing: opened.groups[1]?.damage))")
                return
            }
            #expect(try opened.contents(of: 2) == ModelGroup(hardState: state(2)))
            // without the checkpoint nobody would know any more
            #expect(try opened.log.reclaim() == 0)
        }
        var opened = try Opened(disk)
        guard case .entries(let debt, _)? = opened.groups[2]?.damage else {
            Issue.record("\(String(describing: opened.groups[2]?.damage))")
            return
        }
        #expect(debt == LogPosition(term: Term(1), index: LogIndex(4)))
        try opened.log.write([LogWrite(group: 2, debt: debt)])
        opened = try Opened(disk)
        #expect(try opened.damaged == [1] && opened.contents(of: 2) == ModelGroup(hardState: state(2), debt: debt))
        try opened.log.write([
            LogWrite(
                group: 1, hardState: .initial, debt: .zero, start: .reset(base(1, term: 1)), note: Bytes("gone"))
        ])
        #expect(try opened.log.reclaim() > 2)
        #expect(try Opened(disk).damaged.isEmpty)
    }
}
