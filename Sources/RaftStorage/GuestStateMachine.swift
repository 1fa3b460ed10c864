public import RaftCore

/// The state of a group whose entries mean something to another program only: the snapshot that came last, which is all
/// that is known of it. What was committed since is in the log alone, which therefore goes back to that snapshot, or to
/// the group's first entry. ``GuestStates`` makes it.
///
/// Threads: ``durableMeta()`` any; the rest as `StateMachine` says.
public final class GuestStateMachine: SnapshotStateMachine, @unchecked Sendable {
    /// Nil before the first.
    private let snapshot: KeptSnapshot?
    /// The last entry that was given to it.
    public private(set) var appliedPosition: LogPosition
    /// The membership at the snapshot, or at the group's birth.
    private let membership: Configuration

    init(birth: Configuration) {
        snapshot = nil
        appliedPosition = .zero
        membership = birth
    }

    init(_ snapshot: KeptSnapshot) {
        self.snapshot = snapshot
        appliedPosition = snapshot.head.meta.last
        membership = snapshot.head.meta.configuration
    }

    /// Does nothing with them. The replies are empty.
    public func apply(_ entries: [CommittedEntry]) -> [Bytes] {
        if let last = entries.last { appliedPosition = last.position }
        return [Bytes](repeating: Bytes(), count: entries.count)
    }

    /// Throws: nobody here understands the state.
    public func read(_ query: Bytes) throws(StateMachineError) -> Bytes {
        throw StateMachineError("a guest's state cannot be read here")
    }

    /// Does nothing: the snapshot is durable.
    public func flush() {}

    /// What the snapshot stands for; nil without one.
    public func durableMeta() -> SnapshotMeta? { snapshot?.head.meta }

    /// The snapshot, older than what is applied as a rule. Throws without one: then the log is whole, and nobody needs it.
    public func freeze() throws(StateMachineError) -> any FrozenState {
        guard let snapshot else { throw StateMachineError("no snapshot has come yet") }
        return snapshot
    }
}

/// A snapshot in its file; read while it is held, even if it has been dropped since.
final class KeptSnapshot: FrozenState {
    let head: StateHead
    private let file: any DiskFile

    init(_ disk: any Disk, _ name: String) throws(StateMachineError) {
        do throws(DiskError) { file = try disk.open(name) } catch { throw StateMachineError(error.description) }
        do throws(StateMachineError) { head = try KeptSnapshot.reader(of: file).head } catch {
            file.close()
            throw error
        }
    }

    deinit { file.close() }

    var meta: SnapshotMeta { head.meta }

    private static func reader(of file: any DiskFile) throws(StateMachineError) -> StateFileReader {
        try StateFileReader { offset, count throws(StateMachineError) in
            do throws(DiskError) { return try file.bytes(at: offset, count: count) } catch {
                throw StateMachineError(error.description)
            }
        }
    }

    /// The files are the same whatever the number.
    func writer(to folder: any SnapshotFolder, as number: UInt64) throws(StateMachineError) -> any SnapshotWriter {
        KeptSnapshotWriter(self, try KeptSnapshot.reader(of: file), folder)
    }
}

/// Writes the files of a kept snapshot.
private final class KeptSnapshotWriter: SnapshotWriter, @unchecked Sendable {
    /// Keeps the file open.
    private let snapshot: KeptSnapshot
    private var pieces: StateFileReader
    private let folder: any SnapshotFolder
    private var name: String?

    init(_ snapshot: KeptSnapshot, _ pieces: StateFileReader, _ folder: any SnapshotFolder) {
        self.snapshot = snapshot
        self.pieces = pieces
        self.folder = folder
    }

    func write(about bytes: Int) throws(StateMachineError) -> SnapshotStep {
        var written = 0
        while written < bytes {
            guard let piece = try nextPiece() else { return SnapshotStep(bytes: written, isLast: true) }
            let rest = piece.suffix(from: min(1, piece.count))
            switch (FolderPieces.Tag(of: piece), name) {
            case (.file?, _):
                let begun = rest.withUnsafeBytes { String(decoding: $0, as: UTF8.self) }
                name = begun
                try folder.append(Bytes(), to: begun)
            case (.part?, let name?):
                try folder.append(rest, to: name)
                written += rest.count
            default:
                throw StateMachineError("the kept snapshot is not one: a piece of it makes no sense", isDamage: true)
            }
        }
        return SnapshotStep(bytes: written, isLast: false)
    }

    /// What cannot be read here is gone, unlike what cannot be written.
    private func nextPiece() throws(StateMachineError) -> Bytes? {
        do throws(StateMachineError) { return try pieces.next() } catch {
            throw StateMachineError(error.description, isDamage: true)
        }
    }
}

/// What is in a folder, as pieces: see ``GuestStates``.
struct FolderPieces: StatePieces {
    enum Tag: UInt8 {
        case file = 0x46
        case part = 0x44

        init?(of piece: Bytes) {
            guard let tag = piece.withUnsafeBytes({ $0.first }).flatMap(Tag.init(rawValue:)) else { return nil }
            self = tag
        }
    }

    private static let partBytes = 256 << 10

    private let folder: any SnapshotFolder
    /// The next one last.
    private var names: [String]
    private var current: (name: String, offset: Int)?

    init(of folder: any SnapshotFolder) throws(StateMachineError) {
        self.folder = folder
        names = try folder.fileNames().reversed()
    }

    mutating func next() throws(StateMachineError) -> Bytes? {
        if let (name, offset) = current {
            let part = try folder.read(name, at: offset, count: FolderPieces.partBytes)
            if !part.isEmpty {
                current = (name, offset + part.count)
                return part.withUnsafeBytes { FolderPieces.piece(.part, $0) }
            }
        }
        guard let name = names.popLast() else { return nil }
        current = (name, 0)
        var text = name
        return text.withUTF8 { FolderPieces.piece(.file, UnsafeRawBufferPointer($0)) }
    }

    private static func piece(_ tag: Tag, _ bytes: UnsafeRawBufferPointer) -> Bytes {
        Bytes(count: bytes.count + 1) { piece in
            piece[0] = tag.rawValue
            UnsafeMutableRawBufferPointer(rebasing: piece[1...]).copyMemory(from: bytes)
        }
    }
}
