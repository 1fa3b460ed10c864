public import RaftCore

/// What an object does when it is used by one client at a time: the specification that a concurrent history is held
/// against.
public protocol SequentialModel {
    /// What the object holds.
    associatedtype State: Hashable
    /// What can be asked of it.
    associatedtype Operation
    /// What it answers.
    associatedtype Outcome: Hashable

    /// Before the first operation.
    static var initial: State { get }
    /// What `operation` does to `state`, and its answer.
    static func apply(_ operation: Operation, to state: State) -> (State, Outcome)
}

/// One key of the store: a string that can be read, set, removed, appended to, and counted up.
public enum KeyModel: SequentialModel {
    /// Nil: there is no such key.
    public typealias State = Bytes?

    /// What a client asks.
    public enum Operation: Equatable, Sendable {
        /// The value.
        case get
        /// Stores a value; answers the one before it.
        case put(Bytes)
        /// Removes the key; answers the value before.
        case delete
        /// Appends; answers the new length.
        case append(Bytes)
        /// Adds to the integer stored, none being 0; answers the sum.
        case increment(Int64)
    }

    /// What it answers.
    public enum Outcome: Hashable, Sendable {
        /// A value, or none.
        case value(Bytes?)
        /// A length or a sum.
        case number(Int64)
        /// What is stored is no integer, or the sum would not fit.
        case notAnInteger
    }

    /// No key.
    public static var initial: Bytes? { nil }

    /// As the store's state machine does it.
    public static func apply(_ operation: Operation, to state: Bytes?) -> (Bytes?, Outcome) {
        switch operation {
        case .get: return (state, .value(state))
        case .put(let value): return (value, .value(state))
        case .delete: return (nil, .value(state))
        case .append(let tail):
            let joined = Bytes((state?.array ?? []) + tail.array)
            return (joined, .number(Int64(joined.count)))
        case .increment(let number):
            guard let stored = state.map(integer) ?? 0 else { return (state, .notAnInteger) }
            let (sum, overflow) = stored.addingReportingOverflow(number)
            guard !overflow else { return (state, .notAnInteger) }
            return (Bytes(String(sum)), .number(sum))
        }
    }

    /// The number whose decimal form is exactly these bytes.
    private static func integer(_ digits: Bytes) -> Int64? {
        guard let number = Int64(digits.text), String(number) == digits.text else { return nil }
        return number
    }
}
