import RaftCore
import Testing

@testable import RaftStorage

@Suite("Write-ahead log: power failures") struct CrashTests {
    /// Random writes of five groups at a time; what is written is always acceptable to the log.
    private struct Workload {
        var random: SeededRandom
        var counter = 0
        /// Of each group, how many had its place before and were dropped.
        var drops = [UInt64](repeating: 0, count: 5)

        mutating func batch(after model: Model) -> [LogWrite] {
            var model = model
            return (0..<random.number(in: 1..<4)).map { _ in
                let write = write(model: model)
                model.apply([write])
                return write
            }
        }

        private mutating func write(model: Model) -> LogWrite {
            let place = Int(random.number(in: 0..<5))
            var write = LogWrite(group: UInt64(place) + 5 * drops[place])
            if random.number(in: 0..<16) == 0 {
                drops[place] += 1
                return LogWrite(dropping: write.group)
            }
            var model = model
            compactOrReset(&write, model[write.group])
            model.apply([write])
            let entries = model[write.group].entries
            let base = model[write.group].base?.position ?? .zero
            var last = model[write.group].last
            if random.number(in: 0..<4) == 0 {
                write.hardState = HardState(term: last.term.next, vote: peer(UInt16(random.number(in: 0..<3))))
            }
            if !entries.isEmpty, random.number(in: 0..<5) == 0 {
                let position = Int(random.number(in: 0..<Int64(entries.count)))
                write.truncateFrom = entries[position].position.index
                last = position > 0 ? entries[position - 1].position : base
            }
            for _ in 0..<random.number(in: 0..<4) {
                counter += 1
                let term = Term(max(last.term.rawValue, 1) + random.number(in: 0..<2))
                last = LogPosition(term: term, index: last.index.next)
                let filler = String(repeating: "-", count: Int(random.number(in: 0..<3)) * 150)
                write.entries.append(data(last.index.rawValue, term: last.term.rawValue, "\(counter)\(filler)"))
            }
            if random.number(in: 0..<5) == 0 { write.note = Bytes("note \(counter)") }
            return write
        }

        private mutating func compactOrReset(_ write: inout LogWrite, _ group: ModelGroup) {
            switch random.number(in: 0..<12) {
            case 0, 1, 2:
                guard !group.entries.isEmpty else { return }
                let position = group.entries[Int(random.number(in: 0..<Int64(group.entries.count)))].position
                write.start = .compact(LogBase(position: position, configuration: Configuration(peers: [peer(1)])))
            case 3:
                let last = LogPosition(term: group.last.term.next, index: group.last.index.advanced(by: 10))
                write.start = .reset(LogBase(position: last, configuration: .empty))
            case 4: write.debt = random.number(in: 0..<2) == 0 ? .zero : group.last
            default: break
            }
        }
    }

    @Test func whatWriteReturnedForIsThereAfterEveryCrash() throws {
        var survived = 0
        var tails = 0
        var checkpoints = 0
        for seed in 0..<400 as Range<UInt64> {
            let disk = MemoryDisk(seed: seed)
            var workload = Workload(random: SeededRandom(seed: ~seed))
            var model = Model()
            for _ in 0..<4 {
                if disk.exists("CHECKPOINT") { checkpoints += 1 }
                let opened = try openAfterCrashes(disk, &workload)
                #expect(opened.damaged.isEmpty, "seed \(seed)")
                tails += opened.findings.filter { $0.contains("tail-cut") }.count
                #expect(try opened.holds(model), "seed \(seed)")
                for _ in 0..<workload.random.number(in: 0..<5) {
                    let batch = workload.batch(after: model)
                    try opened.log.write(batch)
                    model.apply(batch)
                    if workload.random.number(in: 0..<4) == 0 { opened.log.sealIfIdle() }
                    try maintain(opened.log, &workload)
                }
                let inFlight = workload.batch(after: model)
                disk.failSyncs(after: Int(workload.random.number(in: 0..<5)))
                do throws(StorageError) {
                    try maintain(opened.log, &workload)
                    try opened.log.write(inFlight)
                    model.apply(inFlight)
                } catch {
                    disk.crash()
                    disk.failsSyncs = false
                    // the write may have made it, but then as a whole
                    let (found, whole) = (try Opened(disk.copy()), model.applying(inFlight))
                    if try found.holds(whole) && found.holdsNothingBut(whole), !inFlight.isEmpty {
                        model = whole
                        survived += 1
                    }
                    continue
                }
                disk.crash()
                disk.failsSyncs = false
            }
            let opened = try Opened(disk)
            #expect(try opened.holds(model) && opened.holdsNothingBut(model), "seed \(seed)")
        }
        // the accidents did happen
        #expect(survived > 50 && tails > 50 && checkpoints > 50, "\(survived) \(tails) \(checkpoints)")
    }

    /// Now and then writes a checkpoint, or makes room.
    private func maintain(_ log: WriteAheadLog, _ workload: inout Workload) throws(StorageError) {
        switch workload.random.number(in: 0..<6) {
        case 0: try log.checkpoint()
        case 1:
            _ = try log.carryForward(maxBytes: 1 << 16)
            try log.reclaim()
            try log.deleteRetired()
        case 2: try log.reclaim()
        default: break
        }
    }

    /// Opens the log; now and then the power fails while that happens.
    private func openAfterCrashes(_ disk: MemoryDisk, _ workload: inout Workload) throws -> Opened {
        while workload.random.number(in: 0..<3) == 0 {
            disk.failSyncs(after: Int(workload.random.number(in: 0..<2)))
            let opened = try? Opened(disk)
            disk.crash()
            disk.failsSyncs = false
            if opened != nil { break }
        }
        return try Opened(disk)
    }
}
