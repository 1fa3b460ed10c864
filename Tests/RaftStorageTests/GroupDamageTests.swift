import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: what damage costs a group") struct GroupDamageTests {
    /// A log of one segment and one group whose batches can be broken one by one.
    private struct Log {
        let disk = MemoryDisk(seed: 0)
        /// Where each batch's body begins.
        private var bodies: [Int] = []

        init(_ batches: [LogWrite]) throws {
            let log = try Opened(disk, segmentBytes: 1 << 16).log
            for write in batches { try log.write([write]) }
            try log.close()
            var offset = SegmentHeader.byteCount
            let bytes = try #require(disk.contents(segmentName(1)))
            while let header = bytes.withUnsafeBytes({
                BatchHeader.decode($0, at: LogPlace(segment: 1, offset: offset), identity: 7)
            }) {
                if !header.isSeal { bodies.append(header.bodyOffset) }
                offset = header.end
            }
            #expect(bodies.count == batches.count)
        }

        /// Opens it with the first record of one batch broken.
        func open(broken batch: Int) throws -> Opened {
            disk.flipBit(segmentName(1), offset: bodies[batch] + 20)
            return try open()
        }

        func open() throws -> Opened { try Opened(disk, segmentBytes: 1 << 16) }
    }

    private static let kinds: [LogWrite] = [
        LogWrite(group: 1, hardState: state(1), entries: [data(1, "one"), data(2, "two")], note: Bytes("first")),
        LogWrite(group: 1, entries: [data(3, "three")]),
    ]

    private func position(_ index: Int64, _ term: Int64) -> LogPosition {
        LogPosition(term: Term(term), index: LogIndex(index))
    }

    @Test func lostEntriesCostEntriesOnly() throws {
        let log = try Log(
            Self.kinds + [
                LogWrite(group: 1, entries: [data(4, term: 2, "four")]),
                LogWrite(group: 1, hardState: state(3, vote: peer(2))),
                LogWrite(group: 1, entries: [data(5, term: 3, "five")], note: Bytes("second")),
            ])
        let opened = try log.open(broken: 2)
        let group = try #require(opened.groups[1])
        guard case .entries(let debt, let reason)? = group.damage else {
            Issue.record("\(String(describing: group.damage))")
            return
        }
        #expect(debt == position(5, 3) && reason.contains(segmentName(1)))
        #expect(group.lastIndex == LogIndex(3) && group.hardState == state(3, vote: peer(2)))
        #expect(group.note == Bytes("second"))
        #expect(opened.findings.contains { $0.contains("group-hurt") && $0.hasSuffix("group=1 lost=entries debt=5@3") })
        #expect(throws: StorageError.self) {
            try opened.log.write([LogWrite(group: 1, entries: [data(4, term: 4, "x")])])
        }
        try opened.log.write([LogWrite(group: 1, debt: debt, entries: [data(4, term: 4, "again")])])
        try opened.log.write([LogWrite(group: 1, entries: [data(5, term: 4, "on")])])
        let again = try #require(try log.open().groups[1])
        #expect(again.damage == nil && again.debt == debt && again.lastIndex == LogIndex(5))
        #expect(again.termRuns == [position(1, 1), position(4, 4)])
    }

    @Test func secondLossBehindASettledOneIsToldAnew() throws {
        var log = try Log(Self.kinds + [LogWrite(group: 1, entries: [data(4, "four")])])
        try log.open(broken: 1).log.write([LogWrite(group: 1, debt: position(4, 1))])
        let whole = try log.open()
        #expect(whole.groups[1]?.damage == nil && whole.groups[1]?.lastIndex == LogIndex(2))
        log = try Log(
            Self.kinds + [
                LogWrite(group: 1, debt: position(9, 4)), LogWrite(group: 1, entries: [data(4, term: 2, "four")]),
            ])
        // a debt of before counts too
        guard case .entries(position(9, 4), _)? = try log.open(broken: 3).groups[1]?.damage else {
            Issue.record("the loss is not told")
            return
        }
    }

    @Test(arguments: [0, 1]) func lostPromisesAreFatalUntilTheyAreMadeAgain(more: Int) throws {
        let lost: [(LogWrite, again: LogWrite)] = [
            (LogWrite(group: 1, hardState: state(5)), LogWrite(group: 1, hardState: state(6))),
            (LogWrite(group: 1, note: Bytes("second")), LogWrite(group: 1, note: Bytes("third"))),
            (LogWrite(group: 1, debt: position(9, 9)), LogWrite(group: 1, debt: .zero)),
        ]
        for (write, again) in lost {
            let log = try Log(Self.kinds + [write] + (more == 1 ? [again] : []))
            let opened = try log.open(broken: 2)
            if more == 1 {
                #expect(opened.damaged.isEmpty, "\(write)")
                continue
            }
            guard case .promises? = opened.groups[1]?.damage else {
                Issue.record("\(write)")
                return
            }
            #expect(throws: StorageError.self) { try opened.log.write([again]) }
        }
    }

    @Test func resetMakesEarlierLossesGood() throws {
        let log = try Log(Self.kinds + [LogWrite(group: 1, start: .reset(base(9, term: 2)))])
        let group = try #require(try log.open(broken: 1).groups[1])
        #expect(group.damage == nil && group.base == base(9, term: 2) && group.lastIndex == LogIndex(9))
    }

    @Test func compactionMakesALossGoodThatLiesBeforeIt() throws {
        let compactions: [(Int64, whole: Bool)] = [(2, false), (3, true), (4, true)]
        for (index, whole) in compactions {
            let log = try Log(
                Self.kinds + [
                    LogWrite(group: 1, entries: [data(4, "four")]),
                    LogWrite(group: 1, start: .compact(base(index, term: 1))),
                    LogWrite(group: 1, entries: [data(5, "five")]),
                ])
            let opened = try log.open(broken: 1)
            #expect(opened.damaged == (whole ? [] : [1]), "\(index)")
            guard whole else { continue }
            let read = try opened.log.entries(of: 1, from: LogIndex(index + 1), count: 9, maxBytes: .max)
            #expect(read.last?.payload.text == "five" && opened.groups[1]?.base?.position.index == LogIndex(index))
        }
    }

    @Test func truncationMakesALossGoodThatItRemoves() throws {
        for index in 3...4 as ClosedRange<Int64> {
            let log = try Log(
                Self.kinds + [
                    LogWrite(group: 1, entries: [data(4, "four")]),
                    LogWrite(group: 1, truncateFrom: LogIndex(index), entries: [noOp(index, term: 2)]),
                ])
            // what is removed is lost at 3, at 4 what stays
            #expect(try log.open(broken: 1).damaged == (index == 3 ? [] : [1]))
        }
    }

    @Test func lostTruncationDoesNotMixTwoLogs() throws {
        let log = try Log(
            Self.kinds + [
                LogWrite(group: 1, truncateFrom: LogIndex(2), entries: [noOp(2, term: 2)]),
                LogWrite(group: 1, entries: [data(3, term: 2, "THREE"), data(4, term: 2, "FOUR")]),
            ])
        let opened = try log.open(broken: 2)
        #expect(opened.groups[1]?.termRuns == [position(1, 1)] && opened.groups[1]?.lastIndex == LogIndex(3))
        guard case .entries(position(4, 2), _)? = opened.groups[1]?.damage else {
            Issue.record("the loss is not told")
            return
        }
    }

    @Test func recordsInFrontOfTheBrokenOneCount() throws {
        let disk = MemoryDisk(seed: 0)
        let log = try Opened(disk, segmentBytes: 4096).log
        try log.write([
            LogWrite(group: 1, entries: [data(1, "one")]),
            LogWrite(group: 2, entries: [data(1, "eins"), data(2, "zwei"), data(3, "drei")]),
            LogWrite(group: 3, entries: [data(1, "un")]),
        ])
        try log.close()
        let bytes = try #require(disk.contents(segmentName(1)))
        disk.flipBit(segmentName(1), offset: try #require(bytes.firstRange(of: Array("drei".utf8))).lowerBound)
        let opened = try Opened(disk, segmentBytes: 4096)
        #expect(opened.damaged == [2, 3])
        #expect(opened.groups[2]?.lastIndex == LogIndex(2) && opened.groups[3]?.lastIndex == LogIndex(0))
    }

    @Test func lossFoundWhileRunningIsCutOutForGood() throws {
        let log = try Log(Self.kinds + [LogWrite(group: 1, entries: (4...600).map { data($0, "entry \($0)") })])
        let opened = try log.open()
        #expect(try opened.log.firstDamagedIndex(of: 1) == nil)
        let bytes = try #require(log.disk.contents(segmentName(1)))
        let place = try #require(bytes.firstRange(of: Array("entry 444".utf8))).lowerBound
        log.disk.flipBit(segmentName(1), offset: place)
        #expect(try opened.log.firstDamagedIndex(of: 1) == LogIndex(444))
        #expect(try opened.log.firstDamagedIndex(of: 1, from: LogIndex(445)) == nil)
        try opened.log.write([LogWrite(group: 1, debt: position(600, 1), truncateFrom: LogIndex(444))])
        try opened.log.write([LogWrite(group: 1, entries: [data(444, term: 2, "new")])])
        let again = try log.open()
        #expect(again.damaged.isEmpty && again.groups[1]?.debt == position(600, 1))
        #expect(again.groups[1]?.lastIndex == LogIndex(444))
        #expect(try again.log.firstDamagedIndex(of: 1) == nil)
    }
}
