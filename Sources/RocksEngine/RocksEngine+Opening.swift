import CRocksDB
import Glibc
import RaftCore

// Opening reads RocksDB's own lists of files and the ends of the files listed. What is damaged there costs the whole
// store, so it is said with the way out; nothing is thrown away by itself.

extension RocksEngine {
    static func open(_ directory: String, _ options: OpaquePointer) throws(StateMachineError) -> OpaquePointer? {
        let wasThere = access(directory + "/CURRENT", F_OK) == 0
        // RocksDB would begin a new store and remove the files of the old one
        guard wasThere || !holdsTables(directory) else {
            throw damaged(directory, "its file CURRENT is missing")
        }
        var message: UnsafeMutablePointer<CChar>?
        let handle = rocksdb_open(options, directory, &message)
        guard let message else { return handle }
        defer { rocksdb_free(message) }
        let text = String(cString: message)
        guard text.hasPrefix("Corruption") || (wasThere && text.contains("No such file")) else {
            throw StateMachineError("cannot open the store in \(directory): \(text)")
        }
        throw damaged(directory, text)
    }

    private static func damaged(_ directory: String, _ reason: String) -> StateMachineError {
        StateMachineError(
            "cannot open the store in \(directory): \(reason). Its files are damaged or gone; bring them back, or move the "
                + "directory away and start again: other members of its groups give this node their state"
        )
    }

    /// Whether there is a file of data in the directory.
    private static func holdsTables(_ directory: String) -> Bool {
        guard let stream = opendir(directory) else { return false }
        defer { closedir(stream) }
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name.hasSuffix(".sst") { return true }
        }
        return false
    }
}
