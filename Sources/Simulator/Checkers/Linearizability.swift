/// Holds the concurrent history of one object against its sequential ``SequentialModel``, while it happens: every
/// operation must seem to take effect at one moment between its call and its return (Herlihy and Wing, 1990). One whose
/// outcome nobody knows may do so at any moment after its call, or never.
///
/// After each return it keeps every *configuration* that explains the history so far: a state, and which of the
/// operations that have not returned have taken effect, with the answers they then must give. A return keeps those in
/// which the operation has taken effect with the answer given, after letting operations under way take effect before
/// it in any order (the search of Wing and Gong with the memory of Lowe). If none is left, no order explains the
/// history. Of two configurations that differ only in operations of unknown outcome the one in which fewer have taken
/// effect is enough: the others may still do so.
public struct Linearizability<Model: SequentialModel> {
    /// What is known.
    public enum Verdict: Equatable, Sendable {
        /// An order explains everything so far.
        case explained
        /// No order does.
        case contradiction
        /// There are more possibilities than the limit allows to follow; nothing is known from here on.
        case undecided
    }

    private struct Configuration: Hashable {
        var state: Model.State
        /// Slots of the operations that have taken effect and not returned.
        var effective: UInt64 = 0
        /// What those that may yet return must answer; ascending by slot.
        var promised: [Promise] = []

        func with(_ slot: Int, _ state: Model.State, _ outcome: Model.Outcome?) -> Configuration {
            var next = self
            next.state = state
            next.effective |= 1 << UInt64(slot)
            if let outcome {
                let place = promised.firstIndex { $0.slot > slot } ?? promised.count
                next.promised.insert(Promise(slot: slot, outcome: outcome), at: place)
            }
            return next
        }

        func without(_ slot: Int) -> Configuration {
            var next = withoutPromise(of: slot)
            next.effective &= ~(1 << UInt64(slot))
            return next
        }

        func withoutPromise(of slot: Int) -> Configuration {
            var next = self
            next.promised.removeAll { $0.slot == slot }
            return next
        }
    }

    private struct Promise: Hashable {
        var slot: Int
        var outcome: Model.Outcome
    }

    /// Configurations followed at once at most.
    private let limit: Int
    private var configurations: Set<Configuration> = [Configuration(state: Model.initial)]
    /// Operations under way or of unknown outcome, by slot.
    private var operations: [Model.Operation?] = []
    /// Slots of unknown outcome.
    private var lost: UInt64 = 0
    /// What is known.
    public private(set) var verdict = Verdict.explained

    /// An object nobody has used.
    public init(limit: Int = 20_000) { self.limit = limit }

    /// How many operations of unknown outcome may still take effect.
    public var lostCount: Int { lost.nonzeroBitCount }

    /// Somebody calls; the slot names the operation until it ends. At most 64 can be under way or unknown; for further
    /// ones the verdict is undecided.
    public mutating func called(_ operation: Model.Operation) -> Int {
        if let free = operations.firstIndex(where: { $0 == nil }) {
            operations[free] = operation
            return free
        }
        operations.append(operation)
        if operations.count > 64, verdict == .explained { giveUp(.undecided) }
        return operations.count - 1
    }

    /// The operation has answered.
    public mutating func returned(_ slot: Int, _ outcome: Model.Outcome) -> Verdict {
        defer { operations[slot] = nil }
        guard verdict == .explained else { return verdict }
        let bit = UInt64(1) << UInt64(slot)
        var explained: Set<Configuration> = []
        var seen: Set<Configuration> = []
        var waiting = Array(configurations)
        while let configuration = waiting.popLast() {
            if configuration.effective & bit != 0 {
                // took effect before, with an answer promised
                if configuration.promised.first(where: { $0.slot == slot })?.outcome == outcome {
                    explained.insert(configuration.without(slot))
                }
                continue
            }
            for (other, operation) in operations.enumerated() {
                guard let operation, configuration.effective & (1 << UInt64(other)) == 0 else { continue }
                let (state, answer) = Model.apply(operation, to: configuration.state)
                if other == slot {
                    guard answer == outcome else { continue }
                    explained.insert(
                        Configuration(
                            state: state, effective: configuration.effective, promised: configuration.promised))
                } else {
                    let next = configuration.with(other, state, lost & (1 << UInt64(other)) != 0 ? nil : answer)
                    if seen.insert(next).inserted { waiting.append(next) }
                }
            }
            guard seen.count <= limit else { return giveUp(.undecided) }
        }
        configurations = leastEffective(of: explained)
        guard !configurations.isEmpty else { return giveUp(.contradiction) }
        forgetSettled()
        return .explained
    }

    /// An operation of unknown outcome that must have taken effect is over.
    private mutating func forgetSettled() {
        let settled = configurations.reduce(lost) { $0 & $1.effective }
        guard settled != 0 else { return }
        configurations = Set(
            configurations.map { configuration in
                var rest = configuration
                rest.effective &= ~settled
                return rest
            })
        lost &= ~settled
        for slot in operations.indices where settled & (1 << UInt64(slot)) != 0 { operations[slot] = nil }
    }

    /// Nobody will ever know the operation's outcome.
    public mutating func lost(_ slot: Int) {
        guard verdict == .explained else { return }
        lost |= 1 << UInt64(slot)
        configurations = leastEffective(of: Set(configurations.map { $0.withoutPromise(of: slot) }))
    }

    /// The operation was refused: it has had no effect, and never will have.
    public mutating func refused(_ slot: Int) -> Verdict {
        defer { operations[slot] = nil }
        guard verdict == .explained else { return verdict }
        configurations = configurations.filter { $0.effective & (1 << UInt64(slot)) == 0 }
        return configurations.isEmpty ? giveUp(.contradiction) : .explained
    }

    @discardableResult
    private mutating func giveUp(_ verdict: Verdict) -> Verdict {
        self.verdict = verdict
        configurations = []
        return verdict
    }

    /// Drops those of which another one is the same but for fewer effects of unknown outcome.
    private func leastEffective(of all: Set<Configuration>) -> Set<Configuration> {
        guard lost != 0, all.count > 1 else { return all }
        var least: [Configuration: [UInt64]] = [:]
        for configuration in all {
            var known = configuration
            known.effective &= ~lost
            let unknown = configuration.effective & lost
            var others = least[known] ?? []
            if others.contains(where: { $0 & unknown == $0 }) { continue }
            others.removeAll { $0 & unknown == unknown }
            others.append(unknown)
            least[known] = others
        }
        var result: Set<Configuration> = []
        for (known, sets) in least {
            for unknown in sets {
                var configuration = known
                configuration.effective |= unknown
                result.insert(configuration)
            }
        }
        return result
    }
}
