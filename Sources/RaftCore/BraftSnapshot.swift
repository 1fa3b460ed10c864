/// How the files of a braft's snapshot lie in a ``SnapshotFolder``, flat and under names that any file system takes: each
/// listed file under its ``storedName(of:)``, and the list itself, braft's LocalSnapshotPbMeta without a length before
/// it, under ``listName``. Files of no bytes are there too.
///
/// A host makes such a folder of what a braft sends before it calls ``StateMachineStore/install(_:as:group:kind:expecting:)``.
/// A ``FrozenState`` that writes one is sent to a braft under the names in the list; of any other the files are sent under
/// the names they have.
public enum BraftSnapshot {
    /// The name of the list, on the wire and in the folder.
    public static let listName = "__raft_snapshot_meta"

    private static let storedBytesMax = 255
    private static let escape = UInt8(ascii: "%")

    /// The name in the folder of a file that a snapshot lists as `name`; nil if no snapshot may list it: the list's own
    /// name, an empty or absolute path, one with an empty, `.` or `..` part or with control characters, or one that is
    /// too long for a file system.
    public static func storedName(of name: String) -> String? {
        let parts = name.utf8.split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false)
        guard name != listName,
            parts.allSatisfy({ !$0.isEmpty && !$0.elementsEqual(".".utf8) && !$0.elementsEqual("..".utf8) })
        else { return nil }
        var stored: [UInt8] = []
        for (position, byte) in name.utf8.enumerated() {
            guard byte >= 0x20, byte != 0x7f else { return nil }
            if byte == UInt8(ascii: "/") || byte == escape || (byte == UInt8(ascii: ".") && position == 0) {
                stored.append(escape)
                stored += String(byte, radix: 16, uppercase: true).utf8
            } else {
                stored.append(byte)
            }
        }
        guard stored.count <= storedBytesMax else { return nil }
        return String(decoding: stored, as: UTF8.self)
    }

    /// The name that a snapshot lists for the file `stored` in its folder; nil if ``storedName(of:)`` makes no such name.
    public static func name(ofStored stored: String) -> String? {
        var name: [UInt8] = []
        var rest = Array(stored.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == escape else {
                name.append(byte)
                continue
            }
            guard rest.count >= 2,
                let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16)
            else { return nil }
            name.append(value)
            rest = rest.dropFirst(2)
        }
        let text = String(decoding: name, as: UTF8.self)
        guard let again = storedName(of: text), FileNames.areSame(again, stored) else { return nil }
        return text
    }
}
