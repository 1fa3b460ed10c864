internal import RaftCore
internal import ShardMap

/// One call of ``KeyValueRouter/execute(_:deadline:completion:)``: what was asked, and the results so far.
final class Call {
    let operations: [KeyOperation]
    let deadline: Instant
    /// When the router took it.
    var takenAt = Instant.distantPast
    let completion: ([KeyResult]) -> Void
    /// Estimate of its size on the wire.
    let bytes: Int
    /// Whether these are scans and counts, each of the one shard that owns its first key.
    let isOverRanges: Bool

    /// The operations, as positions, in the order that ``Part``s refer to: grouped by shard. Empty: as they came.
    var order: [Int32] = []
    /// The results by position; empty until the first comes.
    private(set) var results: [KeyResult] = []
    /// Of range operations, by position: the range of the shard that was asked last.
    var ranges: [KeyRange]
    private(set) var unanswered: Int
    /// Bytes of the results so far.
    private(set) var resultBytes = 0

    init(
        _ operations: [KeyOperation], deadline: Instant, isOverRanges: Bool = false,
        completion: @escaping ([KeyResult]) -> Void
    ) {
        self.operations = operations
        self.deadline = deadline
        self.isOverRanges = isOverRanges
        self.completion = completion
        bytes = operations.reduce(0) { $0 + $1.weight }
        ranges = isOverRanges ? operations.map { KeyRange(start: $0.key, end: $0.value) } : []
        unanswered = operations.count
    }

    /// The position of the operation at `slot` of the order.
    func position(_ slot: Int32) -> Int { order.isEmpty ? Int(slot) : Int(order[Int(slot)]) }

    /// Takes the results of `part`'s operations, which begin at `offset` of `answers`.
    func take(_ part: Part, from answers: [KeyResult], at offset: Int) {
        if part.isWholeCall && answers.count == operations.count {
            results = answers
        } else {
            makeRoom()
            for (number, slot) in part.slots.enumerated() { results[position(slot)] = answers[offset + number] }
        }
        unanswered -= part.operationCount
        for answer in answers[offset..<offset + part.operationCount] { resultBytes += answer.weight }
    }

    /// Gives every operation of `part` the same `result`.
    func take(_ part: Part, all result: KeyResult) {
        makeRoom()
        for slot in part.slots { results[position(slot)] = result }
        unanswered -= part.operationCount
    }

    /// Gives the operation at `position` its `result`.
    func take(position: Int, _ result: KeyResult) {
        makeRoom()
        results[position] = result
        unanswered -= 1
    }

    private func makeRoom() {
        if results.isEmpty { results = [KeyResult](repeating: KeyResult(), count: operations.count) }
    }
}

/// The operations of one call that go to one shard: a run of the call's order.
struct Part {
    let call: Call
    let slots: Range<Int32>
    /// Estimate of their size on the wire.
    let bytes: Int
    /// Whether one of them changes something.
    let isWrite: Bool
    /// Whether their results are set; such a part only keeps its place in its request.
    var isAnswered = false

    init(_ call: Call, _ slots: Range<Int32>) {
        self.call = call
        self.slots = slots
        var bytes = 0
        var isWrite = false
        for slot in slots {
            let position = call.position(slot)
            bytes += call.operations[position].weight
            isWrite = isWrite || !call.operations[position].isRead
        }
        self.bytes = bytes
        self.isWrite = isWrite
    }

    var operationCount: Int { slots.count }
    var isWholeCall: Bool { call.order.isEmpty && slots.count == call.operations.count }
    var firstKey: Bytes { call.operations[call.position(slots.lowerBound)].key }

    /// Whether every key lies in `range`.
    func lies(in range: KeyRange) -> Bool {
        slots.allSatisfy { range.contains(call.operations[call.position($0)].key) }
    }

    /// Its first `count` operations and the others; nil where there are none.
    func divided(after count: Int) -> (first: Part?, rest: Part?) {
        if count == 0 { return (nil, self) }
        if count == operationCount { return (self, nil) }
        let border = slots.lowerBound + Int32(count)
        return (Part(call, slots.lowerBound..<border), Part(call, border..<slots.upperBound))
    }

    /// Cut before the first operation that goes beyond a limit; the first part has one operation at least.
    func cut(maxOperations: Int, maxBytes: Int) -> (first: Part, rest: Part) {
        var end = slots.lowerBound
        var bytes = 0
        while end < slots.upperBound, end - slots.lowerBound < maxOperations {
            bytes += call.operations[call.position(end)].weight
            if bytes > maxBytes && end > slots.lowerBound { break }
            end += 1
        }
        return (Part(call, slots.lowerBound..<end), Part(call, end..<slots.upperBound))
    }
}

extension KeyOperation {
    /// Estimate of its size on the wire.
    var weight: Int { key.count + value.count + 32 }
}

extension KeyResult {
    /// Estimate of the memory that what it returns takes.
    fileprivate var weight: Int {
        pairs.reduce(value?.count ?? 0) { $0 + $1.key.count + $1.value.count + 64 }
    }
}
