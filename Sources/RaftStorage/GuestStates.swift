public import RaftCore

/// The states of guest groups on a disk: what another program's leader sent of its state, kept unread. For each number
/// one snapshot, in one file `NUMBER.guest`, which is whole: it is written and made durable as `NUMBER.saving` first.
///
/// The file is that of any saved state. Its pieces are the snapshot's files, one after the other: a piece that
/// begins with `F` and goes on with a file's name, then, each behind a `D`, the parts of what is in it. So a name that
/// a stranger chose never becomes one on this disk.
///
/// Any thread, but one at a time for one number.
public final class GuestStates: StateMachineStore, @unchecked Sendable {
    private static let suffix = ".guest"
    private static let draftSuffix = ".saving"

    /// How much is written between two looks at the room that is left, and between two syncs.
    fileprivate static let lookBytes = 16 << 20

    private let disk: any Disk
    private let minimumFreeBytes: Int
    private let lock = Lock()
    /// The numbers there are.
    private var known: Set<UInt64> = []

    /// The states in `disk`, which holds nothing else. What an earlier life did not finish is removed. None is taken that
    /// would leave fewer than `minimumFreeBytes` on the device: the log needs them.
    public init(disk: any Disk, minimumFreeBytes: Int = 0) throws(StateMachineError) {
        self.disk = disk
        self.minimumFreeBytes = minimumFreeBytes
        try onDisk { (disk) throws(DiskError) in
            for name in try disk.list() {
                if name.hasSuffix(GuestStates.draftSuffix) {
                    try disk.remove(name)
                } else if name.hasSuffix(GuestStates.suffix),
                    let number = UInt64(name.dropLast(GuestStates.suffix.utf8.count))
                {
                    known.insert(number)
                }
            }
        }
    }

    private static func name(_ number: UInt64) -> String { "\(number)\(suffix)" }
    private static func draftName(_ number: UInt64) -> String { "\(number)\(draftSuffix)" }

    /// The state machine of `group` with the snapshot under `number`; with none, as at the birth of a group of `birth`.
    /// Throws if there is one that cannot be used.
    public func open(
        _ number: UInt64, group: String, birth: Configuration
    ) throws(StateMachineError) -> GuestStateMachine {
        guard lock.withLock({ known.contains(number) }) else { return GuestStateMachine(birth: birth) }
        do throws(StateMachineError) {
            let snapshot = try KeptSnapshot(disk, GuestStates.name(number))
            guard snapshot.head.group == group else {
                throw StateMachineError("it is of the group \(snapshot.head.group)")
            }
            return GuestStateMachine(snapshot)
        } catch {
            throw StateMachineError(
                "the snapshot of \(group) in \(disk.path)/\(GuestStates.name(number)) cannot be used: \(error)")
        }
    }

    // MARK: the store

    /// True: whatever the files are, they are kept.
    public func takes(_ group: String, kind: String) -> Bool { true }

    /// True: they are what it is for.
    public func takesBraftFiles(_ group: String, kind: String) -> Bool { true }

    /// Copies the snapshot into a file of its own.
    public func install(
        _ folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) throws(StateMachineError) -> any SnapshotStateMachine {
        let installer = GuestInstaller(self, folder, number, group, meta)
        while true {
            if case .done(let machine) = try installer.advance(about: GuestStates.lookBytes) { return machine }
        }
    }

    /// Copies it a part at a time. What it says in `advance(about:)` that it took is on the disk, or soon will be: it never
    /// leaves more than 16 MiB to the sync of the last step.
    public func installer(
        of folder: any SnapshotFolder, as number: UInt64, group: String, kind: String, expecting meta: SnapshotMeta
    ) -> (any SnapshotInstaller)? { GuestInstaller(self, folder, number, group, meta) }

    /// Begins the draft of what will be under `number`.
    fileprivate func makeDraft(_ number: UInt64) throws(StateMachineError) -> any DiskFile {
        let draft = GuestStates.draftName(number)
        return try onDisk { (disk) throws(DiskError) -> any DiskFile in
            if disk.exists(draft) { try disk.remove(draft) }
            return try disk.create(draft)
        }
    }

    /// Throws unless the node keeps the room it needs when the next part is written.
    fileprivate func checkRoom(for group: String) throws(StateMachineError) {
        guard minimumFreeBytes > 0 else { return }
        let free = try onDisk { (disk) throws(DiskError) in try disk.freeBytes() }
        guard free >= minimumFreeBytes + GuestStates.lookBytes else {
            throw StateMachineError("too little room for the snapshot of \(group): \(free) bytes are free")
        }
    }

    /// The draft is whole and synced: it counts from now on.
    fileprivate func publish(_ number: UInt64, _ group: String) throws(StateMachineError) -> GuestStateMachine {
        try onDisk { (disk) throws(DiskError) in
            try disk.rename(GuestStates.draftName(number), to: GuestStates.name(number))
            try disk.syncDirectory()
        }
        lock.withLock { _ = known.insert(number) }
        return try open(number, group: group, birth: .empty)
    }

    /// One that stays is removed at the next start.
    fileprivate func removeDraft(_ number: UInt64) {
        let draft = GuestStates.draftName(number)
        if disk.exists(draft) { do throws(DiskError) { try disk.remove(draft) } catch {} }
    }

    fileprivate func onDisk<R>(_ body: (any Disk) throws(DiskError) -> R) throws(StateMachineError) -> R {
        do throws(DiskError) { return try body(disk) } catch { throw StateMachineError(error.description) }
    }

    /// Removes the snapshot under `number`, if there is one.
    public func drop(_ number: UInt64) throws(StateMachineError) {
        guard lock.withLock({ known.remove(number) }) != nil else { return }
        try onDisk { (disk) throws(DiskError) in try disk.remove(GuestStates.name(number)) }
    }

    /// The numbers under which there is one, ascending.
    public func numbers() -> [UInt64] { lock.withLock { known.sorted() } }

    /// Makes removals durable.
    public func flush() throws(StateMachineError) {
        try onDisk { (disk) throws(DiskError) in try disk.syncDirectory() }
    }
}

/// Copies a snapshot's files into the file that ``GuestStates`` keeps of it.
private final class GuestInstaller: SnapshotInstaller, @unchecked Sendable {
    private let states: GuestStates
    private let folder: any SnapshotFolder
    private let number: UInt64
    private let group: String
    private let meta: SnapshotMeta
    private var encoder: StateFileEncoder?
    private var file: (any DiskFile)?
    private var offset = 0
    private var syncedBytes = 0

    init(
        _ states: GuestStates, _ folder: any SnapshotFolder, _ number: UInt64, _ group: String, _ meta: SnapshotMeta
    ) {
        (self.states, self.folder, self.number) = (states, folder, number)
        (self.group, self.meta) = (group, meta)
    }

    deinit { file?.close() }

    func advance(about bytes: Int) throws(StateMachineError) -> SnapshotInstallStep {
        do throws(StateMachineError) { return try step(bytes) } catch {
            file?.close()
            file = nil
            states.removeDraft(number)
            throw error
        }
    }

    private func step(_ bytes: Int) throws(StateMachineError) -> SnapshotInstallStep {
        var encoder = try begunEncoder()
        self.encoder = nil
        let file = try begunFile()
        let start = offset
        while offset - start < bytes, !encoder.isAtEnd {
            try encoder.fill()
            try states.onDisk { (_) throws(DiskError) in try file.write([encoder.block.bytes], at: offset) }
            offset += encoder.block.count
            encoder.block.removeAll()
            // whoever waits for this thread waits for little, and so does the log, which is on the same device
            if offset - syncedBytes >= GuestStates.lookBytes {
                try sync(file)
                try states.checkRoom(for: group)
            }
        }
        self.encoder = encoder
        guard encoder.isAtEnd else { return .took(offset - start) }
        try sync(file)
        file.close()
        self.file = nil
        return .done(try states.publish(number, group))
    }

    private func begunEncoder() throws(StateMachineError) -> StateFileEncoder {
        if let encoder { return encoder }
        let head = StateHead(meta: meta, group: group, hash: nil)
        return StateFileEncoder(head, pieces: try FolderPieces(of: folder))
    }

    private func begunFile() throws(StateMachineError) -> any DiskFile {
        if let file { return file }
        try states.checkRoom(for: group)
        let begun = try states.makeDraft(number)
        file = begun
        return begun
    }

    private func sync(_ file: any DiskFile) throws(StateMachineError) {
        try states.onDisk { (_) throws(DiskError) in try file.sync() }
        syncedBytes = offset
    }
}
