import RaftCore
import RaftStorage
import Testing

@testable import RaftHost

/// The host's small containers against slow, obvious ones.
@Suite("Containers")
struct QueueTests {
    @Test("A FIFO is an array", arguments: 1...20 as ClosedRange<UInt64>)
    func fifo(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var queue = FIFO<Int>()
        var model: [Int] = []
        for number in 0..<2000 {
            switch random.number(in: 0..<40) {
            case 0..<18:
                queue.append(number)
                model.append(number)
            case 18..<36:
                #expect(queue.popFirst() == (model.isEmpty ? nil : model.removeFirst()))
            case 36..<39:
                queue.prepend(number)
                model.insert(number, at: 0)
            default:
                guard random.number(in: 0..<10) == 0 else { continue }
                #expect(queue.removeAll() == model)
                model.removeAll()
            }
            #expect(queue.count == model.count && queue.isEmpty == model.isEmpty && queue.first == model.first)
        }
        #expect(queue.removeAll() == model)
    }

    @Test("A deadline heap gives the earliest first, and only what is due", arguments: 1...20 as ClosedRange<UInt64>)
    func deadlines(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var heap = DeadlineHeap()
        var model: [(at: Instant, slot: Int)] = []
        for step in 0..<1000 {
            if random.number(in: 0..<3) > 0 {
                let at = Instant(nanoseconds: random.number(in: 0..<200))
                heap.push(at, slot: step)
                model.append((at, step))
            }
            #expect(heap.earliest == model.map(\.at).min())
            let now = Instant(nanoseconds: random.number(in: 0..<100))
            let due = heap.popDue(now)
            let earliest = model.map(\.at).min()
            if let earliest, earliest <= now {
                #expect(due?.at == earliest)
                let position = model.firstIndex { $0.at == earliest && $0.slot == due?.slot }
                #expect(position != nil, "what came out never went in")
                if let position { model.remove(at: position) }
            } else {
                #expect(due == nil)
            }
        }
    }
}

/// A log's young end that forgets as it is told to, and nothing more.
@Suite("LogTail")
struct LogTailTests {
    private func entry(_ index: Int64, term: Int64 = 1, bytes: Int = 10) -> LogEntry {
        LogEntry(
            position: LogPosition(term: Term(term), index: LogIndex(index)), kind: .data,
            payload: Bytes([UInt8](repeating: UInt8(truncatingIfNeeded: index), count: bytes)))
    }

    @Test("It is a window of an array", arguments: 1...20 as ClosedRange<UInt64>)
    func window(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var tail = LogTail(after: LogIndex(7))
        var first: Int64 = 8
        var model: [LogEntry] = []
        var term: Int64 = 1
        for _ in 0..<3000 {
            let last = first + Int64(model.count) - 1
            switch random.number(in: 0..<20) {
            case 0..<14:
                let new = entry(last + 1, term: term, bytes: Int(random.number(in: 0..<40)))
                tail.append(new)
                model.append(new)
            case 14..<16:
                term += 1
                let from = max(1, last + 2 - random.number(in: 0..<20))
                tail.truncate(from: LogIndex(from))
                if from < first {
                    model = []
                    first = from
                } else if from <= last {
                    model.removeLast(Int(last - from + 1))
                }
            default:
                let through = last - random.number(in: 0..<30)
                let budget = Int(random.number(in: 0..<600))
                tail.trim(through: LogIndex(through), budget: budget)
                while !model.isEmpty, first <= through, model.reduce(0, { $0 + $1.payload.count }) > budget {
                    model.removeFirst()
                    first += 1
                }
            }
            #expect(tail.first == LogIndex(first) && tail.count == model.count)
            #expect(tail.bytes == model.reduce(0) { $0 + $1.payload.count })
            expectSlices(of: tail, first, model, &random)
        }
    }

    private func expectSlices(
        of tail: LogTail, _ first: Int64, _ model: [LogEntry], _ random: inout SeededRandom
    ) {
        let from = first + random.number(in: -3..<Int64(model.count) + 3)
        let wanted = Int(random.number(in: 0..<10))
        let slice = tail.slice(from: LogIndex(from), count: wanted)
        guard from >= first, from <= first + Int64(model.count) else {
            #expect(slice == nil)
            return
        }
        let expected = model.dropFirst(Int(from - first)).prefix(wanted)
        #expect(slice?.map(\.position) == expected.map(\.position))
        #expect(slice?.map(\.payload) == expected.map(\.payload))
    }

    @Test("Entries are bounded in number too") func count() {
        var tail = LogTail()
        for index in 1...20_000 as ClosedRange<Int64> { tail.append(entry(index, bytes: 0)) }
        tail.trim(through: LogIndex(20_000), budget: 1 << 20)
        #expect(tail.count == 16_384)
        #expect(tail.first == LogIndex(20_000 - 16_384 + 1))
    }
}
