@testable import RaftCore

/// An entry with something to tell it from every other.
struct TraceEntry: Equatable {
    var term: Term
    var kind: EntryKind
    /// What it means; zero where a witness keeps it.
    var value: UInt64
    /// Bytes of payload.
    var size = 0
    var configuration: Configuration?

    /// Whether both are the same entry, one of them perhaps as a witness keeps it.
    func agrees(with other: TraceEntry) -> Bool {
        term == other.term && kind == other.kind && (value == other.value || value == 0 || other.value == 0)
            && (kind != .configuration || configuration == other.configuration)
    }
}
