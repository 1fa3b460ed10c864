import Glibc
import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log") struct WriteAheadLogTests {
    @Test func emptyLogRecoversNothing() throws {
        let disk = MemoryDisk(seed: 1)
        #expect(try Opened(disk).groups.isEmpty)
        let again = try Opened(disk)
        #expect(again.groups.isEmpty && again.findings.isEmpty && again.log.totalBytes == 0)
    }

    @Test func everythingIsThereAfterEachReopening() throws {
        let disk = MemoryDisk(seed: 1)
        var model = Model()
        for (number, batch) in SampleLog.batches.enumerated() {
            let opened = try Opened(disk)
            #expect(try opened.holds(model) && opened.damaged.isEmpty && opened.findings.isEmpty)
            try opened.log.write(batch)
            model.apply(batch)
            if number % 2 == 0 { try opened.log.close() }
        }
        #expect(try Opened(disk).holds(model))
    }

    @Test func writtenEntriesCanBeReadAtOnce() throws {
        let log = try Opened(MemoryDisk(seed: 1)).log
        for batch in SampleLog.batches { try log.write(batch) }
        let entries = try log.entries(of: 1, from: LogIndex(2), count: 10, maxBytes: 10_000)
        #expect(entries.map(\.position.index.rawValue) == [2, 3, 4, 5])
        #expect(entries.map(\.position.term.rawValue) == [1, 3, 3, 5])
        #expect(entries.map(\.payload.text) == ["first", "", "fourth", ""])
    }

    @Test func readsAreBoundedByCountAndBytesButGiveAtLeastOneEntry() throws {
        let log = try Opened(MemoryDisk(seed: 1)).log
        let entries = (1...10).map { data(Int64($0), String(repeating: "x", count: 64)) }
        try log.write([LogWrite(group: 5, entries: entries)])
        func count(from: Int64, count: Int, maxBytes: Int) throws -> Int {
            try log.entries(of: 5, from: LogIndex(from), count: count, maxBytes: maxBytes).count
        }
        #expect(try count(from: 1, count: 3, maxBytes: .max) == 3)
        #expect(try count(from: 1, count: 9, maxBytes: 250) == 2)
        #expect(try count(from: 4, count: 9, maxBytes: 0) == 1)
        #expect(try count(from: 10, count: 9, maxBytes: .max) == 1)
        #expect(try count(from: 11, count: 9, maxBytes: .max) == 0)
        #expect(try count(from: 0, count: 9, maxBytes: .max) == 0)
        #expect(try count(from: 1, count: 0, maxBytes: .max) == 0)
        #expect(try log.entries(of: 6, from: LogIndex(1), count: 1, maxBytes: 1).isEmpty)
    }

    @Test func oneBatchMayTruncateWhatItWroteBefore() throws {
        let disk = MemoryDisk(seed: 1)
        let writes = [
            LogWrite(group: 1, entries: [data(1, "a"), data(2, "b"), data(3, "c")]),
            LogWrite(group: 2, entries: [data(1, "other")]),
            LogWrite(group: 1, truncateFrom: LogIndex(2), entries: [data(2, term: 2, "B")]),
        ]
        let log = try Opened(disk).log
        try log.write(writes)
        #expect(try log.entries(of: 1, from: LogIndex(1), count: 9, maxBytes: .max).map(\.payload.text) == ["a", "B"])
        #expect(try Opened(disk).holds(Model().applying(writes)))
    }

    @Test func logBeginsBehindItsBaseAndAgainAfterAReset() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        let members = Configuration(peers: [peer(1), peer(2)])
        let first = LogBase(position: LogPosition(term: Term(4), index: LogIndex(99)), configuration: members)
        let second = LogBase(position: LogPosition(term: Term(5), index: LogIndex(6)), configuration: .empty)
        try log.write([LogWrite(group: 1, entries: [data(1, "gone soon")])])
        try log.write([LogWrite(group: 1, start: .reset(first), entries: [data(100, term: 4, "behind a snapshot")])])
        #expect(try Opened(disk.copy()).groups[1]?.base == first)
        #expect(try log.entries(of: 1, from: LogIndex(1), count: 1, maxBytes: 1).isEmpty)
        try log.write([LogWrite(group: 1, truncateFrom: LogIndex(100))])
        #expect(try Opened(disk.copy()).groups[1]?.lastIndex == LogIndex(99))
        try log.write([LogWrite(group: 1, start: .reset(second))])
        try log.write([LogWrite(group: 1, entries: [data(7, term: 5, "seven"), data(8, term: 5, "eight")])])
        let opened = try Opened(disk)
        #expect(opened.groups[1]?.base == second)
        #expect(opened.groups[1]?.termRuns == [LogPosition(term: Term(5), index: LogIndex(7))])
        #expect(opened.groups[1]?.lastIndex == LogIndex(8))
        #expect(try opened.log.entries(of: 1, from: LogIndex(8), count: 1, maxBytes: 1)[0].payload.text == "eight")
        try opened.log.write([
            LogWrite(
                group: 1, start: .reset(LogBase(position: .zero, configuration: .empty)), entries: [data(1, "one")])
        ])
        #expect(try Opened(disk).groups[1]?.base == nil)
    }

    @Test func compactionTakesAwayTheBeginning() throws {
        let members = [Configuration(peers: [peer(1)]), Configuration(peers: [peer(1), peer(2)])]
        let entries = [
            membership(1, members[0]), data(2, "a"), data(3, term: 2, "b"), membership(4, term: 2, members[1]),
            data(5, term: 4, "c"), data(6, term: 4, "d"),
        ]
        for index in 1...6 as ClosedRange<Int64> {
            let disk = MemoryDisk(seed: 1)
            let log = try Opened(disk).log
            try log.write([LogWrite(group: 1, entries: entries)])
            let gone = entries[Int(index) - 1].position
            let base = LogBase(position: gone, configuration: members[index < 4 ? 0 : 1])
            try log.write([LogWrite(group: 1, start: .compact(base))])
            #expect(try log.entries(of: 1, from: gone.index, count: 9, maxBytes: .max).isEmpty)
            for opened in [try Opened(disk.copy()), try Opened(disk)] {
                let group = try #require(opened.groups[1])
                #expect(group.base == base && group.lastIndex == LogIndex(6))
                let rest = entries[Int(index)...]
                #expect(
                    group.configurations.map(\.index) == rest.filter { $0.configuration != nil }.map(\.position.index))
                let read = try opened.log.entries(of: 1, from: gone.index.next, count: 9, maxBytes: .max)
                #expect(read.map(\.position) == rest.map(\.position))
                #expect(group.termRuns.first?.index == rest.first?.position.index)
            }
            // the log goes on behind it, down to the base and no further
            try log.write([LogWrite(group: 1, truncateFrom: gone.index.next, entries: [noOp(index + 1, term: 9)])])
            #expect(try Opened(disk).groups[1]?.termRuns == [LogPosition(term: Term(9), index: gone.index.next)])
        }
    }

    @Test func debtIsKeptUntilItIsPaid() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        let debt = LogPosition(term: Term(7), index: LogIndex(70))
        try log.write([LogWrite(group: 1, debt: debt, entries: [data(1, "one")])])
        #expect(try Opened(disk.copy()).groups[1]?.debt == debt)
        try log.write([LogWrite(group: 1, debt: .zero)])
        #expect(try Opened(disk).groups[1]?.debt == nil)
        #expect(try Opened(disk).groups[1]?.lastIndex == LogIndex(1))
    }

    @Test func jointConfigurationsRolesAndVotesKeepTheirText() throws {
        let disk = MemoryDisk(seed: 1)
        let witness = PeerID(address: NodeAddress(ip: 0x0a00_0001, port: 1), idx: -3, role: .witness)
        let joint = Configuration(peers: [peer(1), witness], oldPeers: [peer(2, idx: 9)])
        try Opened(disk).log.write([
            LogWrite(group: 1, hardState: state(9, vote: witness), entries: [membership(1, joint)])
        ])
        let recovered = try #require(try Opened(disk).groups[1])
        #expect(recovered.configurations.map(\.configuration.description) == [joint.description])
        #expect(recovered.hardState.vote?.description == witness.description)
    }

    @Test func batchLargerThanASegmentGetsASegmentOfItsOwn() throws {
        let disk = MemoryDisk(seed: 1)
        let large = Bytes(count: 9 << 20) { buffer in
            buffer.initializeMemory(as: UInt8.self, repeating: 0)
            for page in 0..<buffer.count / 4096 { buffer[page * 4096] = UInt8(truncatingIfNeeded: page) }
        }
        let log = try Opened(disk, segmentBytes: 1 << 20).log
        let batches = [
            [LogWrite(group: 1, entries: [data(1, "small")])],
            [LogWrite(group: 1, entries: [data(2, large)])],
            [LogWrite(group: 1, entries: [data(3, "small again")])],
        ]
        for batch in batches { try log.write(batch) }
        #expect(log.totalBytes > 10 << 20 && log.totalBytes < 11 << 20)
        let opened = try Opened(disk, segmentBytes: 1 << 20)
        #expect(opened.groups[1]?.lastIndex == LogIndex(3) && opened.damaged.isEmpty)
        let read = try opened.log.entries(of: 1, from: LogIndex(2), count: 2, maxBytes: .max)
        #expect(read[0].payload.count == large.count && read[1].payload.text == "small again")
        let checksums = [read[0].payload, large].map { $0.withUnsafeBytes { Checksum.of($0) } }
        #expect(checksums[0] == checksums[1])
    }

    @Test func manySegmentsAreReadInOrder() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        var model = Model()
        for index in 1...60 {
            let entry = data(Int64((index - 1) / 3 + 1), "entry \(index)")
            let batch = [LogWrite(group: UInt64(index % 3), entries: [entry])]
            try log.write(batch)
            model.apply(batch)
        }
        #expect(log.totalBytes >= 8 * 1024)
        #expect(try Opened(disk).holds(model))
    }

    @Test func oneBatchCostsOneSync() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk, segmentBytes: 1 << 16).log
        try log.write(SampleLog.batches[0])
        let before = disk.syncCount
        for batch in SampleLog.batches.dropFirst() { try log.write(batch) }
        #expect(disk.syncCount == before + SampleLog.batches.count - 1)
    }

    @Test func emptyWritesWriteNothing() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write([])
        try log.write([LogWrite(group: 3)])
        #expect(log.totalBytes == 0)
    }

    @Test func idleLogIsSealedOnce() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        log.sealIfIdle()
        #expect(log.totalBytes == 0)
        try log.write(SampleLog.batches[0])
        let before = disk.syncCount
        log.sealIfIdle()
        log.sealIfIdle()
        #expect(disk.syncCount == before + 1)
        try log.close()
        #expect(disk.syncCount == before + 1)
        #expect(throws: StorageError.failed("the log is closed")) { try log.write(SampleLog.batches[1]) }
        // and the seal is known after a restart
        let again = try Opened(disk).log
        let recovered = disk.syncCount
        again.sealIfIdle()
        #expect(disk.syncCount == recovered)
    }

    @Test func unprovenTailIsWrittenAndSyncedAgainBeforeAnythingIsSaid() throws {
        let sample = try SampleLog(sealed: false)
        let before = sample.disk.syncCount
        sample.disk.failsSyncs = true
        #expect(throws: StorageError.self) { try Opened(sample.disk) }
        sample.disk.failsSyncs = false
        _ = try Opened(sample.disk)
        // the directory, then the tail
        #expect(sample.disk.syncCount == before + 2)
    }

    @Test func entryThatDoesNotFollowTraps() async {
        await #expect(processExitsWith: .failure) {
            let log = try Opened(MemoryDisk(seed: 1)).log
            try log.write([LogWrite(group: 1, entries: [data(1, "a"), data(3, "c")])])
        }
    }
}

@Suite("Write-ahead log: a disk that says no") struct DiskFailureTests {
    @Test func noRoomForASegmentRefusesTheWriteAndChangesNothing() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        var model = Model()
        disk.isFull = true
        #expect(throws: StorageError.disk(.full(path: "memory"))) { try log.write(SampleLog.batches[0]) }
        disk.isFull = false
        for batch in SampleLog.batches.prefix(2) {
            try log.write(batch)
            model.apply(batch)
        }
        // full again, in the middle: what fits into the segment is written, then refusals
        disk.isFull = true
        var index: Int64 = 1
        var refused = false
        while !refused {
            let batch = [LogWrite(group: 9, entries: [data(index, "until it is full")])]
            do throws(StorageError) {
                try log.write(batch)
                model.apply(batch)
                index += 1
            } catch {
                #expect(error == .disk(.full(path: "memory")))
                refused = true
            }
        }
        #expect(index > 1)
        #expect(try Opened(disk.copy()).holds(model))
        disk.isFull = false
        let batch = [LogWrite(group: 9, entries: [data(index, "room again")])]
        try log.write(batch)
        #expect(try Opened(disk).holds(model.applying(batch)))
    }

    /// Writes one entry after the other, each on its own, until one is refused; returns how many were written.
    private func fill(_ log: WriteAheadLog, _ model: inout Model, from index: Int64) throws -> Int64 {
        for next in index..<index + 100 {
            let batch = [LogWrite(group: 9, entries: [data(next, "entry \(next)")])]
            do throws(StorageError) {
                try log.write(batch)
                model.apply(batch)
            } catch {
                #expect(error == .disk(.full(path: "memory")))
                return next - index
            }
        }
        return 100
    }

    @Test func reserveIsKeptFreeOfEntriesAndOpenToVotes() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk, reserveBytes: 4096).log
        var model = Model()
        disk.claimedFreeBytes = 4096 + 1023
        #expect(try fill(log, &model, from: 1) == 0)
        disk.claimedFreeBytes = 4096 + 1024
        try log.write([LogWrite(group: 9, entries: [data(1, "entry 1")])])
        model.apply([LogWrite(group: 9, entries: [data(1, "entry 1")])])
        disk.claimedFreeBytes = 0
        // what fits into the segment that is there takes no more room
        let written = try fill(log, &model, from: 2)
        #expect(written > 2 && log.totalBytes == 1024)
        // votes go on, and start a segment of their own if they must
        for term in 1...20 as ClosedRange<Int64> {
            let vote = [LogWrite(group: 5, hardState: state(term, vote: peer(1)))]
            try log.write(vote)
            model.apply(vote)
        }
        #expect(log.totalBytes > 1024)
        // until there is no room at all
        disk.isFull = true
        #expect(throws: StorageError.disk(.full(path: "memory"))) {
            for term in 21...40 as ClosedRange<Int64> {
                let vote = [LogWrite(group: 5, hardState: state(term))]
                try log.write(vote)
                model.apply(vote)
            }
        }
        disk.isFull = false
        #expect(try Opened(disk.copy()).holds(model))
        disk.claimedFreeBytes = 1 << 40
        #expect(try fill(log, &model, from: written + 2) == 100)
        #expect(try Opened(disk).holds(model))
    }

    @Test func failedSyncIsNeverRetried() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write(SampleLog.batches[0])
        disk.failsSyncs = true
        func expectFailure() {
            do throws(StorageError) {
                try log.write(SampleLog.batches[1])
                Issue.record("written")
            } catch {
                guard case .failed = error else {
                    Issue.record("\(error)")
                    return
                }
            }
        }
        expectFailure()
        disk.failsSyncs = false
        let syncs = disk.syncCount
        expectFailure()
        log.sealIfIdle()
        #expect(disk.syncCount == syncs)
        #expect(throws: StorageError.self) { try log.close() }
        // nothing of it can be read: it was never durable
        #expect(try log.entries(of: 1, from: LogIndex(1), count: 1, maxBytes: 1).isEmpty)
    }

    @Test func segmentThatCannotBeReservedHarmsNeitherTheLogNorItsRestart() throws {
        for failure in [MemoryDisk.deviceError, .full(path: "memory")] {
            let disk = MemoryDisk(seed: 3)
            let log = try Opened(disk).log
            var model = Model()
            for batch in SampleLog.batches.prefix(4) {
                try log.write(batch)
                model.apply(batch)
            }
            // too large for what is left: head and seal of a new segment are written first
            let large = [LogWrite(group: 8, entries: [data(1, String(repeating: "x", count: 3000))])]
            disk.failWrites(1, with: failure)
            do throws(StorageError) {
                try log.write(large)
                Issue.record("written")
            } catch {
                switch (error, failure) {
                case (.failed, .system), (.disk(.full), .full): break
                default: Issue.record("\(error) for \(failure)")
                }
            }
            // a full disk is asked again, a broken one is not
            let small = [LogWrite(group: 9, entries: [data(1, "small")])]
            if case .full = failure {
                try log.write(small)
                try log.write(large)
                model.apply(small)
                model.apply(large)
            } else {
                #expect(throws: StorageError.self) { try log.write(small) }
            }
            disk.crash()
            let opened = try Opened(disk)
            #expect(try opened.holds(model) && opened.damaged.isEmpty)
        }
    }

    @Test func failedWriteClosesTheLogAndLosesNothing() throws {
        for seed in 0..<20 as Range<UInt64> {
            let disk = MemoryDisk(seed: seed)
            let log = try Opened(disk).log
            var model = Model()
            for batch in SampleLog.batches.prefix(2) {
                try log.write(batch)
                model.apply(batch)
            }
            disk.failWrites(1)
            for batch in SampleLog.batches[2...3] {
                do throws(StorageError) {
                    try log.write(batch)
                    Issue.record("written")
                } catch {
                    guard case .failed = error else {
                        Issue.record("\(error)")
                        return
                    }
                }
            }
            // what was said to be durable is; of what failed either everything is there or nothing
            disk.crash(seed % 2 == 0 ? .nothing : .some)
            let opened = try Opened(disk)
            let holds = try opened.holds(model) || opened.holds(model.applying(SampleLog.batches[2]))
            #expect(holds && opened.damaged.isEmpty)
        }
    }

    @Test func copyingFileSystemWithoutRoomRefusesTheWriteAndChangesNothing() throws {
        let disk = MemoryDisk(seed: 1)
        disk.copiesOnWrite = true
        let log = try Opened(disk).log
        try log.write(SampleLog.batches[0])
        disk.isFull = true
        for _ in 1...3 {
            #expect(throws: StorageError.disk(.full(path: "memory"))) { try log.write(SampleLog.batches[1]) }
            log.sealIfIdle()
        }
        disk.isFull = false
        try log.write(SampleLog.batches[1])
        #expect(try Opened(disk).holds(Model().applying(SampleLog.batches[0]).applying(SampleLog.batches[1])))
    }

    /// Of a batch that finds no room a part may be there. Whenever the machine stops then, it is not taken for damage,
    /// and another batch, of another size, may stand in its place.
    @Test func whatABatchWithoutRoomLeavesBehindIsNeverDamage() throws {
        for seed in 0..<400 as Range<UInt64> {
            let disk = MemoryDisk(seed: seed)
            let log = try Opened(disk, segmentBytes: 1 << 13).log
            var model = Model()
            for batch in SampleLog.batches.prefix(2) {
                try log.write(batch)
                model.apply(batch)
            }
            let large = [LogWrite(group: 8, entries: [data(1, String(repeating: "x", count: 3000))])]
            let small = [LogWrite(group: 9, hardState: state(Int64(seed) + 1))]
            let other = [LogWrite(group: 10, entries: [data(1, String(repeating: "y", count: 100))])]
            disk.failWrites(Int(seed % 3) + 1, with: .full(path: "memory"))
            for _ in 0...seed % 3 {
                #expect(throws: StorageError.disk(.full(path: "memory"))) { try log.write(large) }
            }
            var possible = [model, model.applying(large)]
            disk.failPower(after: Int(seed % 10)) {}
            for batch in [small, other] {
                do throws(StorageError) {
                    try log.write(batch)
                    model.apply(batch)
                    possible = [model]
                } catch {
                    possible.append(model.applying(batch))
                    break
                }
            }
            disk.crash()
            let opened = try Opened(disk, segmentBytes: 1 << 13)
            #expect(opened.damaged.isEmpty, "\(seed): \(opened.findings)")
            #expect(try possible.contains { try opened.isExactly($0) }, "\(seed)")
        }
    }

    @Test func readThatFailsAtTheStartIsToldAndIsNoDamage() throws {
        let sample = try SampleLog(sealed: true)
        var failures = 0
        for count in 0..<200 {
            let disk = sample.disk.copy()
            let before = try disk.list().map { disk.contents($0) }
            disk.failReads(1, after: count)
            do throws(StorageError) {
                let (_, groups) = try WriteAheadLog.open(
                    disk: disk, settings: .init(segmentBytes: 1024, reserveBytes: 0, identity: 7)
                ) { _ in }
                #expect(groups.values.allSatisfy { $0.damage == nil }, "after \(count) reads")
            } catch {
                guard case .disk(.system("pread", _, EIO)) = error else {
                    Issue.record("after \(count) reads: \(error)")
                    return
                }
                failures += 1
                #expect(try disk.list().map { disk.contents($0) } == before)
            }
            disk.failReads(0)
            #expect(try Opened(disk).holds(sample.model), "after \(count) reads")
        }
        #expect(failures > 3)
    }

    @Test func failedSealIsToldByTheNextWrite() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write(SampleLog.batches[0])
        disk.failsSyncs = true
        log.sealIfIdle()
        disk.failsSyncs = false
        #expect(throws: StorageError.self) { try log.write(SampleLog.batches[1]) }
    }

    @Test func aPulseIsOneSyncOfAFileThatDoesNotGrow() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write(SampleLog.batches[0])
        let before = (syncs: disk.syncCount, bytes: log.totalBytes)
        for _ in 0..<10 { try log.pulse() }
        #expect(disk.syncCount == before.syncs + 10 && log.totalBytes == before.bytes)
        #expect(disk.contents("PULSE")?.count == 8)
        try log.write(SampleLog.batches[1])
        disk.crash()
        let again = try Opened(disk)
        #expect(again.findings == [] && again.groups[1] != nil)
        try again.log.pulse()
    }

    @Test func aPulseThatFailsClosesTheLogForWriting() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        disk.failsSyncs = true
        #expect(throws: StorageError.self) { try log.pulse() }
        disk.failsSyncs = false
        #expect(throws: StorageError.self) { try log.pulse() }
        #expect(throws: StorageError.self) { try log.write(SampleLog.batches[0]) }
    }

    @Test func aFullDiskHasAPulse() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        disk.isFull = true
        try log.pulse()
        disk.isFull = false
        try log.pulse()
        disk.isFull = true
        try log.pulse()
        #expect(disk.contents("PULSE") != nil)
    }

    @Test func compactionThatComesLateIsSkipped() throws {
        let disk = MemoryDisk(seed: 1)
        let log = try Opened(disk).log
        try log.write([LogWrite(group: 1, entries: (1...4).map { data($0, "entry \($0)") })])
        // in one batch, the second one with a note behind it
        try log.write([
            LogWrite(group: 1, start: .compact(base(3, term: 1))),
            LogWrite(group: 1, start: .compact(base(2, term: 1)), entries: [data(5, "five")], note: Bytes("note")),
        ])
        // and as all there is to write
        for index in 1...3 as ClosedRange<Int64> {
            try log.write([LogWrite(group: 1, start: .compact(base(index, term: 1)))])
        }
        #expect(
            try log.entries(of: 1, from: LogIndex(4), count: 9, maxBytes: .max).map(\.payload.text) == [
                "entry 4", "five",
            ])
        let opened = try Opened(disk)
        #expect(opened.damaged.isEmpty && opened.log.usage() == log.usage())
        let group = try opened.contents(of: 1)
        #expect(group.base == base(3, term: 1) && group.note == Bytes("note"))
        #expect(group.entries.map(\.payload.text) == ["entry 4", "five"])
    }
}
