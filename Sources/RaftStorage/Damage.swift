import RaftCore

/// What is broken, for an operator and for whoever asks later.
struct Damage: Equatable {
    var file: String
    var offset: Int
    var reason: String

    var error: StorageError { .damaged(file: file, offset: offset, reason: reason) }
    var text: String { error.description }
}

extension RecordKinds {
    /// What makes up the entries: if one of these is lost, entries are.
    static let entries: RecordKinds = [
        RecordKind.truncate.inSummary, RecordKind.data.inSummary, RecordKind.noOp.inSummary,
        RecordKind.configuration.inSummary, RecordKind.compact.inSummary, RecordKind.reset.inSummary,
    ]
    /// What each record of its kind says anew: if one is lost it is unknown until the next. A payment that is lost
    /// leaves a debt, which harms nobody.
    static let promises: RecordKinds = [
        RecordKind.hardState.inSummary, RecordKind.note.inSummary, RecordKind.debt.inSummary,
        RecordKind.promisesLost.inSummary,
    ]
}

/// What a group has lost, while its later records are being read.
///
/// The entries read since the loss begin anywhere: they are the end of the true log, and may turn out to be all that was
/// still alive of it. Until that is known, what was held before the loss is kept beside them.
///
/// 1. A record of its kind makes the hard state, the note or the debt known again. A record that says the promises are
///    lost says it of all of them.
/// 2. A reset makes the entries known again: the log begins there.
/// 3. A compaction does so if nothing is missing behind it.
/// 4. A truncation does so if the last entry that stays is one that is kept: same term and index, same log (§5.3).
struct Trouble {
    /// The first thing that happened.
    let damage: Damage
    /// Which promises are unknown.
    private(set) var unknown: RecordKinds = []
    /// The entries before the first one that is missing; nil if none is.
    private(set) var kept: EntryIndex?
    /// The last entry ever held, as far as it is known.
    private var furthest = LogPosition.zero
    /// The last entry at this point of the log.
    private var tip = LogPosition.zero

    init(_ damage: Damage) {
        self.damage = damage
    }

    var isOver: Bool { kept == nil && unknown.isEmpty }

    /// Records of these kinds are lost, after which the group's last entry was `last`. `entries` is what has been read
    /// up to here.
    mutating func lose(_ kinds: RecordKinds, last: LogPosition, entries: inout EntryIndex) {
        unknown.formUnion(kinds.intersection(.promises))
        guard !kinds.isDisjoint(with: .entries) else { return }
        if kept == nil || isWhole(entries) {
            kept = entries
            furthest = .zero
        }
        furthest = max(furthest, entries.runs.last, last)
        tip = last
        entries = EntryIndex()
    }

    /// A record is about to be applied to `entries`.
    mutating func meet(_ record: Record, entries: inout EntryIndex) {
        switch record.kind {
        case .debtPaid: unknown.remove(RecordKind.debt.inSummary)
        case .promisesLost: unknown = []
        default: unknown.remove(record.kind.inSummary)
        }
        guard let kept else { return }
        switch record.kind {
        case .reset:
            self.kept = nil
        case .truncate where record.position == .zero || kept.runs.contains(record.position):
            entries = record.position == .zero ? EntryIndex() : kept
            self.kept = nil
        case .truncate:
            tip = record.position
        case .data, .noOp, .configuration:
            tip = record.position
            furthest = max(furthest, tip)
        case .hardState, .note, .compact, .debt, .debtPaid, .promisesLost, .dropped: break
        }
    }

    /// At the end of the log: what the group has lost after all; nil: nothing that matters. Then `entries` is what it
    /// holds.
    mutating func settle(entries: inout EntryIndex, debt: LogPosition?) -> GroupDamage? {
        if let kept, !isWhole(entries) {
            entries = kept.runs.isContiguous ? kept : EntryIndex()
            let debt = max(furthest, debt ?? .zero)
            return unknown.isEmpty ? .entries(debt: debt, reason: damage.text) : .promises(reason: damage.text)
        }
        return unknown.isEmpty ? nil : .promises(reason: damage.text)
    }

    /// Whether what has been read since the loss is the whole log.
    private func isWhole(_ entries: EntryIndex) -> Bool {
        entries.base != nil && entries.runs.isContiguous && entries.runs.last == tip
    }
}

/// Who was hurt by damage, known at the end of a recovery.
struct Damages {
    /// One group's.
    struct OfGroup {
        var damage: Damage
        var cost: GroupDamage
        /// Whether a record says so that can itself be carried forward: then what is broken may go.
        var isRecorded = false
    }

    var ofGroups: [LogGroup: OfGroup] = [:]
    /// Set if something could not be charged to anybody in particular.
    var ofAll: Damage?

    /// What is wrong with a group; nil if it is whole.
    func of(_ group: LogGroup) -> Damage? { ofAll ?? ofGroups[group]?.damage }

    /// What it has cost the group.
    func cost(of group: LogGroup) -> GroupDamage? {
        ofAll.map { .promises(reason: $0.text) } ?? ofGroups[group]?.cost
    }

    /// Whether something is broken that must be found again.
    var hasUnrecorded: Bool { ofAll != nil || ofGroups.values.contains { !$0.isRecorded } }

    /// A write that was allowed is durable.
    mutating func settle(_ write: LogWrite) {
        if write.loss != nil { ofGroups[write.group]?.isRecorded = true } else { ofGroups[write.group] = nil }
    }

    /// What to write down of groups that have lost their promises, by group.
    var unrecordedLosses: [LogWrite] {
        guard ofAll == nil else { return [] }
        let lost = ofGroups.filter { if case .promises = $0.value.cost { !$0.value.isRecorded } else { false } }
        return lost.sorted { $0.key < $1.key }.map { group, found in
            var write = LogWrite(group: group)
            write.loss = found.damage
            return write
        }
    }

    /// Whether the group may be written to by `write`: it is whole, or this says anew whatever may be lost.
    func allow(_ write: LogWrite) -> Bool {
        if write.drops || write.loss != nil { return ofAll == nil }
        let resets = if case .reset = write.start { true } else { false }
        return switch cost(of: write.group) {
        case nil: true
        case .entries: resets || write.debt != nil
        case .promises: ofAll == nil && write.makesAllPromises
        }
    }

    /// The first segment in which something is broken that is not settled: it must stay, to be found again. Zero if
    /// that is in no segment: then only the checkpoint knows of it, and everything must stay.
    var oldestSegment: UInt64? {
        ofGroups.values.filter { !$0.isRecorded }.map { LogFormat.segmentNumber(of: $0.damage.file) ?? 0 }.min()
    }
}
