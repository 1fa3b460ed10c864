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

    /// How much is written between two looks at the room that is left.
    private static let lookBytes = 16 << 20

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
        let draft = "\(number)\(GuestStates.draftSuffix)"
        do throws(StateMachineError) {
            let head = StateHead(meta: meta, group: group, hash: nil)
            var encoder = StateFileEncoder(head, pieces: try FolderPieces(of: folder))
            let file = try onDisk { (disk) throws(DiskError) -> any DiskFile in
                if disk.exists(draft) { try disk.remove(draft) }
                return try disk.create(draft)
            }
            defer { file.close() }
            var (offset, nextLook) = (0, 0)
            repeat {
                try encoder.fill()
                if offset >= nextLook {
                    nextLook = offset + GuestStates.lookBytes
                    let free = try onDisk { (disk) throws(DiskError) in try disk.freeBytes() }
                    guard free >= minimumFreeBytes + GuestStates.lookBytes || minimumFreeBytes == 0 else {
                        throw StateMachineError("too little room for the snapshot of \(group): \(free) bytes are free")
                    }
                }
                try onDisk { (_) throws(DiskError) in try file.write([encoder.block.bytes], at: offset) }
                offset += encoder.block.count
                encoder.block.removeAll()
            } while !encoder.isAtEnd
            try onDisk { (disk) throws(DiskError) in
                try file.sync()
                try disk.rename(draft, to: GuestStates.name(number))
                try disk.syncDirectory()
            }
            lock.withLock { _ = known.insert(number) }
            return try open(number, group: group, birth: .empty)
        } catch {
            // what stays is removed at the next start
            if disk.exists(draft) { do throws(DiskError) { try disk.remove(draft) } catch {} }
            throw error
        }
    }

    private func onDisk<R>(_ body: (any Disk) throws(DiskError) -> R) throws(StateMachineError) -> R {
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
