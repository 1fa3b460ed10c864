import Glibc
import Testing

/// Whole clusters, moved message by message by the scripts in `Traces`. Each script tells its story first; below each
/// command stands what it did, and must do again. With `RAFT_REWRITE_TRACES=1` in the environment the scripts are
/// rewritten to what happens now, to be read before they are kept.
@Suite("Traces")
struct TraceTests {
    static let folder = String(#filePath.dropLast("TraceTests.swift".count)) + "Traces/"

    @Test(arguments: traceNames())
    func replaysAsRecorded(_ name: String) throws {
        let path = TraceTests.folder + name
        let recorded = try #require(contents(of: path))
        let replayed = try TraceScript.replay(recorded)
        #expect(!replayed.contains("VIOLATION"))
        let story = replayed.split(separator: "\n").prefix { $0.hasPrefix("#") }.joined()
        #expect(story.contains("§") || story.contains("rule"), "tells no story, or cites nothing")
        #expect(replayed.split(separator: "\n").contains { !$0.hasPrefix("#") && !$0.hasPrefix(">") }, "does nothing")
        if getenv("RAFT_REWRITE_TRACES") != nil {
            if replayed != recorded { #expect(write(replayed, to: path)) }
            return
        }
        if replayed == recorded { return }
        let (old, new) = (recorded.split(separator: "\n"), replayed.split(separator: "\n"))
        let line = zip(old, new).prefix { $0 == $1 }.count
        let (was, now) = (line < old.count ? old[line] : "(end)", line < new.count ? new[line] : "(end)")
        Issue.record("\(name), behind \(line) equal lines:\n  recorded \(was)\n  now      \(now)")
    }

    @Test func thereAreAtLeastThirty() { #expect(traceNames().count >= 30) }
}

/// The scripts, ascending.
private func traceNames() -> [String] {
    guard let directory = opendir(TraceTests.folder) else { return [] }
    defer { closedir(directory) }
    var names: [String] = []
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        if name.hasSuffix(".trace") { names.append(name) }
    }
    return names.sorted()
}

private func contents(of path: String) -> String? {
    guard let file = fopen(path, "r") else { return nil }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
        let count = fread(&buffer, 1, buffer.count, file)
        if count == 0 { break }
        bytes += buffer[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
}

private func write(_ text: String, to path: String) -> Bool {
    guard let file = fopen(path, "w") else { return false }
    let bytes = Array(text.utf8)
    let written = fwrite(bytes, 1, bytes.count, file)
    return fclose(file) == 0 && written == bytes.count
}
