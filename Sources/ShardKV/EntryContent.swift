import RaftCore
import ShardMap

/// What a committed entry holds for a state machine; every one of this module decides alike about it.
enum EntryContent<Command> {
    /// No command, or one that was applied before.
    case nothing
    case command(Command)
    /// What no replica can read; its proposer hears why.
    case malformed(NamedError)
}

extension LogPosition {
    /// Moves from the last applied entry on to `entry` and looks into it; an entry applied before changes nothing.
    ///
    /// Throws at a format newer than this version: a replica that skipped what it does not understand would differ from
    /// those that do.
    mutating func advance<Command>(
        to entry: CommittedEntry, decoding decode: (Bytes) throws(NamedErrorThrown) -> Command
    ) throws(StateMachineError) -> EntryContent<Command> {
        guard entry.position.index > index else { return .nothing }
        precondition(entry.position.index == index.next, "entry \(entry.position) is applied after \(self)")
        self = entry.position
        guard entry.kind == .data else { return .nothing }
        do throws(NamedErrorThrown) {
            return .command(try decode(entry.payload))
        } catch {
            guard error.error != .unknownFormat else {
                throw StateMachineError("entry \(entry.position): \(error.error.sentence)")
            }
            return .malformed(error.error)
        }
    }
}
