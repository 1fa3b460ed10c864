import RaftCore
import RaftStorage

/// Makes what came of a snapshot durable, a file at a time, and then compares it with what was sent, if the sender said,
/// a part at a time. On the worker; the lane decides when.
final class SnapshotCheck: @unchecked Sendable {
    let folder: StoredFolder
    private let expected: [StoredFolder.File]
    /// Sizes and checksums are known, not just names.
    private let comparesContents: Bool
    /// How many of them are durable.
    private var synced = 0
    private var inventory: FolderInventory?

    init(of folder: StoredFolder, against files: [StoredFolder.File]) {
        self.folder = folder
        expected = files.sorted { FileNames.areAscending($0.name, $1.name) }
        comparesContents = true
    }

    /// A check of files of which only the names are known, and which are there if they have no bytes.
    init(of folder: StoredFolder, named names: [String]) {
        self.folder = folder
        expected = names.sorted(by: FileNames.areAscending)
            .map { StoredFolder.File(name: $0, byteCount: -1, checksum: 0) }
        comparesContents = false
    }

    /// Does one step; true if that was the last, and everything is as it was sent.
    func advance() throws(StateMachineError) -> Bool {
        guard synced == expected.count else {
            let file = expected[synced]
            // nothing came of it
            if file.byteCount == 0 { try folder.append(Bytes(), to: file.name) }
            try folder.sync(file.name)
            synced += 1
            return false
        }
        if inventory == nil {
            try folder.syncDirectory()
            guard comparesContents else {
                guard try folder.fileNames().elementsEqual(expected.map(\.name), by: FileNames.areSame) else {
                    throw StateMachineError("the files are not those that were listed")
                }
                return true
            }
            inventory = try FolderInventory(of: folder)
        }
        guard try inventory?.advance(about: RaftHost.checkedBytes) == true else { return false }
        guard inventory?.files == expected else {
            throw StateMachineError("the files are not those that were sent")
        }
        return true
    }
}
