import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: groups that are out of service, and groups that go") struct LossTests {
    /// A log in which rot has taken the note of group 1, which holds two entries, with segments of group 9 behind it.
    private func damagedDisk() throws -> MemoryDisk {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write([LogWrite(group: 1, hardState: state(3), entries: [data(1, "one"), data(2, "two")])])
        try log.write([LogWrite(group: 1, note: Bytes("first"))])
        try fill(log, 1...30)
        try log.close()
        let bytes = try #require(disk.contents(segmentName(1)))
        disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("first".utf8))).lowerBound)
        return disk
    }

    /// Some segments of a group that needs none of them.
    private func fill(_ log: WriteAheadLog, _ indexes: ClosedRange<Int64>) throws {
        for index in indexes {
            try log.write([LogWrite(group: 9, entries: [data(index, String(repeating: "x", count: 100))])])
        }
        try log.write([LogWrite(group: 9, start: .compact(base(indexes.upperBound, term: 1)))])
    }

    private func segmentCount(_ disk: MemoryDisk) throws -> Int {
        try #require(try Manifest.load(from: disk)).segments.count
    }

    @Test func lossOutlivesTheSegmentItHappenedIn() throws {
        let disk = try damagedDisk()
        let damage = try #require(try Opened(disk.copy()).groups[1]?.damage)
        guard case .promises(let reason) = damage else { return #expect(Bool(false), "\(damage)") }
        #expect(reason.contains(segmentName(1)))
        for round in 1...4 as ClosedRange<Int64> {
            let opened = try Opened(disk)
            #expect(opened.groups[1]?.damage == damage && opened.groups[1]?.lastIndex == LogIndex(2))
            #expect(throws: StorageError.self) { try opened.log.write([LogWrite(group: 1, note: Bytes("x"))]) }
            try opened.log.reclaim()
            #expect(try opened.log.carryForward(maxBytes: 1 << 20).damaged == [])
            #expect(try opened.log.reclaim() > 0)
            #expect(try segmentCount(disk) <= 2)
            if round % 2 == 0 { #expect(try opened.log.checkpoint()) }
            let entries = try opened.log.entries(of: 1, from: LogIndex(1), count: 9, maxBytes: .max)
            #expect(entries.map(\.payload.text) == ["one", "two"])
            try fill(opened.log, 30 * round + 1...30 * round + 30)
            disk.crash()
        }
        #expect(try LogInspection.verify(disk).hurt[1] == damage)
    }

    @Test func lossIsNeverForgottenByMoreRot() throws {
        let disk = try damagedDisk()
        let opened = try Opened(disk)
        let damage = opened.groups[1]?.damage
        try opened.log.reclaim()
        try opened.log.close()
        for segment in try disk.list() where LogFormat.segmentNumber(of: segment) != nil {
            let bytes = try #require(disk.contents(segment))
            // wherever something stands of the group
            for offset in stride(from: 64, to: contentEnd(bytes), by: 5) {
                let copy = disk.copy()
                copy.flipBit(segment, offset: offset)
                let again = try Opened(copy)
                guard case .promises? = again.groups[1]?.damage else {
                    Issue.record("\(segment) \(offset): \(String(describing: damage))")
                    continue
                }
            }
        }
    }

    @Test func carriedEntriesThatCannotBeReadAreLeftBehind() throws {
        let disk = try damagedDisk()
        let opened = try Opened(disk)
        try opened.log.reclaim()
        let bytes = try #require(disk.contents(segmentName(1)))
        disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("two".utf8))).lowerBound)
        #expect(try opened.log.carryForward(maxBytes: 1 << 20).damaged == [])
        #expect(try opened.log.reclaim() > 0)
        let again = try Opened(disk)
        #expect(again.groups[1]?.damage == opened.groups[1]?.damage && again.groups[1]?.lastIndex == LogIndex(1))
    }

    @Test func whoSaysEverythingAnewIsWholeAgain() throws {
        let disk = try damagedDisk()
        let opened = try Opened(disk)
        try opened.log.reclaim()
        try opened.log.write([
            LogWrite(group: 1, hardState: state(9), debt: .zero, start: .reset(base(5, term: 2)), note: Bytes("new"))
        ])
        let again = try Opened(disk)
        #expect(again.damaged == [] && again.groups[1]?.note == Bytes("new"))
        try again.log.write([LogWrite(group: 1, entries: [data(6, term: 9, "on")])])
        #expect(try Opened(disk).groups[1]?.lastIndex == LogIndex(6))
    }

    @Test(arguments: [false, true]) func damagedGroupCanBeDropped(isRecorded: Bool) throws {
        let disk = try damagedDisk()
        let opened = try Opened(disk)
        if isRecorded { try opened.log.reclaim() }
        try opened.log.write([LogWrite(dropping: 1), LogWrite(group: 2, hardState: state(1))])
        #expect(opened.log.usage().pins.allSatisfy { $0.group != 1 })
        let again = try Opened(disk.copy())
        #expect(again.groups.keys.sorted() == [2, 9] && again.damaged == [])
        #expect(try opened.log.reclaim() > 2 && opened.log.checkpoint())
        #expect(try Opened(disk).groups.keys.sorted() == [2, 9])
    }

    @Test func droppedGroupNeverComesBack() throws {
        let disk = MemoryDisk(seed: 1)
        var opened = try Opened(disk)
        // more than a checkpoint writes at a time, and all in a row
        let groups = 1...1100 as ClosedRange<UInt64>
        try opened.log.write(groups.map { LogWrite(group: $0, hardState: state(1), entries: [noOp(1, term: 1)]) })
        try opened.log.checkpoint()
        try opened.log.write(groups.dropLast().map { LogWrite(dropping: $0) })
        try opened.log.write([LogWrite(dropping: 5000)])
        #expect(try Opened(disk.copy()).groups.keys.sorted() == [1100])
        try opened.log.write([LogWrite(group: 1100, note: Bytes("note"))])
        for _ in 1...3 {
            try fill(opened.log, 1...30)
            try opened.log.checkpoint()
            _ = try opened.log.carryForward(maxBytes: 1 << 20)
            try opened.log.reclaim()
            opened = try Opened(disk)
            #expect(opened.groups.keys.sorted() == [9, 1100] && opened.damaged == [])
            #expect(opened.groups[1100]?.note == Bytes("note") && opened.log.usage().segments <= 2)
            try opened.log.write([LogWrite(dropping: 9)])
        }
    }

    @Test func lostDropIsADrop() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk, segmentBytes: 4096).log
        try log.write([LogWrite(group: 1, hardState: state(1)), LogWrite(group: 2, hardState: state(1))])
        let before = contentEnd(try #require(disk.contents(segmentName(1))))
        try log.write([LogWrite(dropping: 1)])
        let end = contentEnd(try #require(disk.contents(segmentName(1))))
        try log.write([LogWrite(group: 2, hardState: state(2))])
        try log.close()
        for offset in before..<end {
            let copy = disk.copy()
            copy.flipBit(segmentName(1), offset: offset)
            let opened = try Opened(copy, segmentBytes: 4096)
            #expect(opened.groups.keys.sorted() == [2] && opened.damaged == [], "offset \(offset)")
        }
    }
}
