import RaftCore
import ShardMap
import Testing

@testable import ShardKV

@Suite("MovingShards rules 1 to 4: every step in every phase")
struct StepOrderTests {
    private static let shard = Shard(id: 1, range: KeyRange(start: Bytes(), end: Bytes()), group: "g2", epoch: 2)
    private static let chunk = StagedChunk(number: 0, pairs: [], cursor: nil, tail: .zero, isComplete: false)

    /// A applied, R repeated, S stale, X refused; the columns are: not heard of, then the phases in their order.
    private static let table: [(action: ShardStep.Action, row: String)] = [
        (.split(key: Bytes("m"), newShard: 2), "A RS XXSS XSS"),
        (.merge(right: 2, rightEpoch: 1), "A SR XXSS XSS"),
        (.open, "A SS RRSS XSS"),
        (.freeze, "X SS ARSS XSS"),
        (.release, "A SS AARS XSS"),
        (.resume, "A SS AASR XSS"),
        (.receive(shard), "A SS XXSS RSS"),
        (.stage(chunk), "X SS XXSS ASS"),
        (.adopt, "X SS XXSS ARS"),
        (.discard, "A SS XXSS ASR"),
    ]

    private static func letter(_ action: ShardStep.Action, operation: UInt64, after fence: ShardFence?) -> Character {
        switch ShardStep(operation: operation, shard: 1, epoch: 1, action: action).verdict(after: fence) {
        case .apply: "A"
        case .repeated: "R"
        case .refuse(let refusal): refusal.error == .staleOperation ? "S" : "X"
        }
    }

    @Test func stepsOfTheOperationThatIsKnown() {
        for (action, row) in StepOrderTests.table {
            let fences = [nil] + ShardFence.Phase.allCases.map { ShardFence(operation: 7, phase: $0, epoch: 1) }
            let found = fences.map { StepOrderTests.letter(action, operation: 7, after: $0) }
            #expect(String(found) == row.filter { $0 != " " }, "\(action)")
        }
    }

    @Test func stepsOfAnOlderOperationAreStale() {
        for (action, _) in StepOrderTests.table {
            for phase in ShardFence.Phase.allCases {
                let fence = ShardFence(operation: 8, phase: phase, epoch: 1)
                #expect(StepOrderTests.letter(action, operation: 7, after: fence) == "S")
            }
        }
    }

    @Test func theEndOfANewerOperationIsAppliedWhateverWasBefore() {
        for phase in ShardFence.Phase.allCases {
            let fence = ShardFence(operation: 6, phase: phase, epoch: 1)
            for action in [ShardStep.Action.release, .resume, .discard] {
                #expect(StepOrderTests.letter(action, operation: 7, after: fence) == "A")
            }
            for action in [ShardStep.Action.freeze, .adopt, .stage(StepOrderTests.chunk)] {
                #expect(StepOrderTests.letter(action, operation: 7, after: fence) == "X")
            }
            let isHeld = phase == .open || phase == .frozen
            #expect(StepOrderTests.letter(.open, operation: 7, after: fence) == (isHeld ? "X" : "A"))
            let ahead = ShardFence(operation: 6, phase: phase, epoch: 2)
            #expect(StepOrderTests.letter(.open, operation: 7, after: ahead) == "S")
        }
    }
}
