import RaftCore
import ShardKV
import Synchronization

/// The states of this node's replicas that are held to be compared, at most one of each: a younger one takes the place.
/// Workers put them here; the lane lets go of them.
final class HeldStates: Sendable {
    private struct Held {
        var number: UInt64
        var state: Result<FrozenReplica, StateMachineError>
        /// When it is let go of; nil until the lane has seen it.
        var end: Instant?
    }

    /// For how long a state is held after its last use.
    static let patience = Interval.milliseconds(60_000)
    private let states = Mutex<[String: Held]>([:])

    func put(_ group: String, number: UInt64, _ state: Result<FrozenReplica, StateMachineError>) {
        states.withLock { $0[group] = Held(number: number, state: state) }
    }

    /// The state that was put under `number`; held for longer now.
    func find(_ group: String, number: UInt64, _ now: Instant) -> Result<FrozenReplica, StateMachineError>? {
        states.withLock { states in
            guard states[group]?.number == number else { return nil }
            states[group]?.end = now + HeldStates.patience
            return states[group]?.state
        }
    }

    /// Lets go of what nobody has asked for any more; returns when to come back.
    func turn(_ now: Instant) -> Instant? {
        states.withLock { states in
            guard !states.isEmpty else { return nil }
            for group in states.keys where states[group]?.end == nil {
                states[group]?.end = now + HeldStates.patience
            }
            states = states.filter { $0.value.end.map { $0 > now } ?? true }
            return states.values.compactMap(\.end).min()
        }
    }
}
