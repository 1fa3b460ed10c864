/// A state machine whose state lives in memory alone. Whoever hosts it saves its state from time to time, so that the
/// log's beginning can go, and makes a new one at every start: of the state saved last, and the log behind it.
///
/// ``apply(_:)``, ``read(_:)`` and ``frozen()`` are called on one worker at a time, never on the lane.
public protocol VolatileStateMachine: AnyObject, Sendable {
    /// Applies committed entries in order and returns one reply for each; what ``StateMachine`` says of it holds here.
    /// One that throws is not used any more: another one is restored in its place.
    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes]

    /// Answers a read. Called when the state is recent enough for a linearizable answer.
    func read(_ query: Bytes) throws(StateMachineError) -> Bytes

    /// The state as it is now, which stays so while the state machine goes on: a copy that costs nothing before somebody
    /// writes. Applying waits for this call, and for nothing of what is done with the pieces.
    func frozen() throws(StateMachineError) -> any StatePieces

    /// Takes on the state in `pieces`, which are those of ``frozen()`` on this or another node, perhaps of an earlier
    /// version of the program. Called at most once, on a new state machine, before anything is applied; any thread. What
    /// `pieces` throws has to be passed on.
    func restore(from pieces: inout any StatePieces) throws(StateMachineError)
}

/// A state, encoded, in pieces that come one after the other. A piece comes out as it went in: what is put into one can
/// be decoded by itself.
///
/// Any thread, one at a time. A piece has at most 1 GiB; one of some KiB costs the least memory.
public protocol StatePieces: Sendable {
    /// The next piece, nil behind the last.
    mutating func next() throws(StateMachineError) -> Bytes?
}

/// The elements of a collection, encoded one by one when somebody asks for them.
public struct EncodedPieces<Elements: IteratorProtocol & Sendable>: StatePieces {
    private var elements: Elements
    private let encode: @Sendable (Elements.Element) -> Bytes

    /// A piece for each of `elements`, as `encode` makes it.
    public init<Source: Sequence>(
        _ elements: Source, encode: @escaping @Sendable (Elements.Element) -> Bytes
    ) where Source.Iterator == Elements {
        self.elements = elements.makeIterator()
        self.encode = encode
    }

    /// The next piece, nil behind the last.
    public mutating func next() -> Bytes? { elements.next().map(encode) }
}
