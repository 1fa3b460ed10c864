/// A committed entry on its way to a state machine.
public struct CommittedEntry: Sendable {
    /// Its place in the log.
    public var position: LogPosition
    /// What it is; configuration and no-op entries pass too, so that the state machine's position stays exact.
    public var kind: EntryKind
    /// The proposer's bytes; empty unless ``kind`` is data.
    public var payload: Bytes
    /// The membership, if ``kind`` is configuration.
    public var configuration: Configuration?
    /// An entry.
    public init(position: LogPosition, kind: EntryKind, payload: Bytes, configuration: Configuration? = nil) {
        self.position = position
        self.kind = kind
        self.payload = payload
        self.configuration = configuration
    }
}

/// A state machine that cannot go on. The replica stops applying; it keeps voting and acknowledging.
public struct StateMachineError: Error, Sendable, CustomStringConvertible {
    /// What failed, for an operator.
    public var description: String
    /// What is stored is not what was stored: trying again is of no use. False if nobody knows.
    public var isDamage: Bool
    /// Nothing is broken: this program does not know what it is to apply. A newer one goes on where this one stopped, and
    /// nobody else's state takes the place of this one's.
    public var needsNewerProgram: Bool
    /// An error told as `description`.
    public init(_ description: String, isDamage: Bool = false, needsNewerProgram: Bool = false) {
        self.description = description
        self.isDamage = isDamage
        self.needsNewerProgram = needsNewerProgram
    }
}

/// What a group replicates. Called on one worker at a time, never on the lane.
///
/// Applying must be deterministic: the same entries in the same order give the same state and the same replies on
/// every replica. Neither clock nor chance may enter except through payloads.
public protocol StateMachine: AnyObject, Sendable {
    /// The last entry whose effects the state holds after a restart; the host applies from the next one on.
    var appliedPosition: LogPosition { get }

    /// Applies committed entries in order and returns one reply for each; the proposer gets it.
    func apply(_ entries: [CommittedEntry]) throws(StateMachineError) -> [Bytes]

    /// Answers a read. The host calls it when the state is recent enough for a linearizable answer.
    func read(_ query: Bytes) throws(StateMachineError) -> Bytes

    /// Makes what is applied durable; called at a clean stop.
    func flush() throws(StateMachineError)
}
