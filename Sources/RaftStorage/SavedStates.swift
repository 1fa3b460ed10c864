public import RaftCore

/// Makes a group's state machine, without any state.
public typealias VolatileStateMachineMaker = @Sendable () -> any VolatileStateMachine

/// The states of volatile state machines on a disk: for each number the one saved last and the one before, each in a file
/// `NUMBER-INDEX.state`. A file under that name is whole: it is written and made durable as `NUMBER.saving` first.
///
/// Any thread, but one at a time for one number.
public final class SavedStates: StateMachineStore, @unchecked Sendable {
    private static let suffix = ".state"
    private static let draftSuffix = ".saving"

    let disk: any Disk
    private let makers: [String: VolatileStateMachineMaker]
    private let report: @Sendable (String) -> Void
    private let lock = Lock()
    /// The files there are, by number, ascending by index. For look-up only.
    private var indexes: [UInt64: [LogIndex]] = [:]
    /// What is known to be durable and whole. For look-up only.
    private var durable: [UInt64: SnapshotMeta] = [:]

    /// The states in `disk`, which holds nothing else. What an earlier life did not finish is removed.
    ///
    /// - Parameters:
    ///   - makers: of state machines, by group.
    ///   - report: gets a sentence for an operator about every state that cannot be used, or stays though it should not.
    public init(
        disk: any Disk, makers: [String: VolatileStateMachineMaker], report: @escaping @Sendable (String) -> Void
    ) throws(StateMachineError) {
        self.disk = disk
        self.makers = makers
        self.report = report
        do throws(DiskError) {
            for name in try disk.list() {
                if name.hasSuffix(SavedStates.draftSuffix) {
                    try disk.remove(name)
                } else if let (number, index) = SavedStates.parse(name) {
                    indexes[number, default: []].append(index)
                }
            }
        } catch {
            throw StateMachineError(error.description)
        }
        for number in indexes.keys { indexes[number]?.sort() }
    }

    private static func name(_ number: UInt64, _ index: LogIndex) -> String { "\(number)-\(index)\(suffix)" }

    private static func parse(_ name: String) -> (UInt64, LogIndex)? {
        guard name.hasSuffix(suffix) else { return nil }
        let words = name.dropLast(suffix.utf8.count).split(separator: "-")
        guard words.count == 2, let number = UInt64(words[0]), let index = Int64(words[1]) else { return nil }
        return (number, LogIndex(index))
    }

    // MARK: loading

    /// The state machine of `group` with the newest state under `number` that can be read; with none, as at the birth of
    /// a group of `birth`. Files that cannot be read are reported and left alone.
    public func open(
        _ number: UInt64, group: String, birth: Configuration
    ) throws(StateMachineError) -> SnapshottedStateMachine {
        guard let make = makers[group] else { throw StateMachineError("nobody says how \(group) is made") }
        for index in (lock.withLock { indexes[number] ?? [] }).reversed() {
            let name = SavedStates.name(number, index)
            do throws(StateMachineError) {
                let (machine, head) = try load(name, group: group, make: make)
                lock.withLock { durable[number] = head.meta }
                return SnapshottedStateMachine(
                    machine, group: group, number: number, states: self, meta: head.meta, hash: head.hash)
            } catch {
                report("the state of \(group) in \(disk.path)/\(name) cannot be used: \(error.description)")
            }
        }
        let meta = SnapshotMeta(last: .zero, configuration: birth)
        return SnapshottedStateMachine(
            make(), group: group, number: number, states: self, meta: meta, hash: RollingHash().value)
    }

    private func load(
        _ name: String, group: String, make: VolatileStateMachineMaker
    ) throws(StateMachineError) -> (any VolatileStateMachine, StateHead) {
        let file: any DiskFile
        do throws(DiskError) { file = try disk.open(name) } catch { throw StateMachineError(error.description) }
        defer { file.close() }
        let reader = try StateFileReader { offset, count throws(StateMachineError) in
            do throws(DiskError) { return try file.bytes(at: offset, count: count) } catch {
                throw StateMachineError(error.description)
            }
        }
        guard reader.head.group == group else { throw StateMachineError("it is of the group \(reader.head.group)") }
        let machine = make()
        var pieces: any StatePieces = reader
        try machine.restore(from: &pieces)
        // a state is whole when its end has been seen, whoever needs it or not
        while try pieces.next() != nil {}
        return (machine, reader.head)
    }

    /// What the newest state under `number` stands for that is whole and durable.
    func durableMeta(of number: UInt64) -> SnapshotMeta? { lock.withLock { durable[number] } }

    // MARK: saving

    func draftName(of number: UInt64) -> String { "\(number)\(SavedStates.draftSuffix)" }

    /// The draft of `number` is written and synced: it becomes its newest state, and what is older than the one before
    /// goes, with all that could not be read.
    func publish(_ number: UInt64, _ meta: SnapshotMeta) throws(StateMachineError) {
        do throws(DiskError) {
            try disk.rename(draftName(of: number), to: SavedStates.name(number, meta.last.index))
            try disk.syncDirectory()
        } catch {
            throw StateMachineError(error.description)
        }
        let obsolete = lock.withLock { () -> [LogIndex] in
            let former = durable.updateValue(meta, forKey: number)
            let kept = [former?.last.index, meta.last.index]
            let known = indexes[number] ?? []
            indexes[number] = (known.filter { kept.contains($0) && $0 != meta.last.index } + [meta.last.index]).sorted()
            return known.filter { !kept.contains($0) }
        }
        for index in obsolete { remove(SavedStates.name(number, index)) }
    }

    /// Removes a file that is of no use; one that stays is looked at again at the next start.
    func remove(_ name: String) {
        guard disk.exists(name) else { return }
        do throws(DiskError) { try disk.remove(name) } catch {
            report("a file of no use stays for now: \(error.description)")
        }
    }

    // MARK: the store

    /// Whether somebody said how its state machine is made: the others keep their states by themselves.
    public func takes(_ group: String, kind: String) -> Bool { makers[group] != nil }

    /// Copies the state into a file of its own, and makes a state machine of that.
    public func install(
        _ folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> any SnapshotStateMachine {
        guard makers[group] != nil else {
            throw StateMachineError("the state machine of \(group) keeps its state by itself, and takes no other")
        }
        let reader = try StateFileReader { offset, count throws(StateMachineError) in
            try folder.read(StateFile.name, at: offset, count: count)
        }
        let head = reader.head
        guard head.group == group, head.meta == meta else {
            throw StateMachineError("the state of \(head.group) at \(head.meta.last) came instead of \(meta.last)")
        }
        let save = StateSave(head, reader, as: number, in: self)
        do throws(StateMachineError) {
            try save.finish()
            let machine = try open(number, group: group, birth: .empty)
            guard machine.appliedPosition == meta.last else {
                throw StateMachineError("the state at \(meta.last) cannot be used")
            }
            return machine
        } catch {
            save.abandon()
            try drop(number)
            throw error
        }
    }

    /// Removes the states under `number`.
    public func drop(_ number: UInt64) throws(StateMachineError) {
        let known = lock.withLock { () -> [LogIndex] in
            durable[number] = nil
            return indexes.removeValue(forKey: number) ?? []
        }
        do throws(DiskError) {
            for index in known { try disk.remove(SavedStates.name(number, index)) }
        } catch {
            throw StateMachineError(error.description)
        }
    }

    /// The numbers under which there is anything, ascending.
    public func numbers() -> [UInt64] { lock.withLock { indexes.keys.sorted() } }

    /// Makes removals durable; whatever is saved was durable before anybody heard of it.
    public func flush() throws(StateMachineError) {
        do throws(DiskError) { try disk.syncDirectory() } catch { throw StateMachineError(error.description) }
    }
}

extension DiskFile {
    /// Up to `count` bytes from `offset` on; fewer only at the end of the file.
    func bytes(at offset: Int, count: Int) throws(DiskError) -> Bytes {
        let count = max(0, min(count, try size() - offset))
        guard count > 0 else { return Bytes() }
        let slab = Slab(capacity: count)
        let buffer = UnsafeMutableRawBufferPointer(start: slab.base, count: count)
        let done = try read(into: buffer, at: offset)
        return Bytes(slab: slab, offset: 0, count: done)
    }
}
