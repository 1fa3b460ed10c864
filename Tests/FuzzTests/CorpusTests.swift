import Glibc
import RaftCore
import Testing

/// The inputs that fuzzing has found worth keeping, each once. One that fails ends the process: it trapped.
@Suite("The fuzzing corpus") struct CorpusTests {
    private static let directory = String(#filePath.dropLast("CorpusTests.swift".count)) + "Corpus/"

    @Test(arguments: FuzzTarget.all.map(\.name))
    func everyInputIsTaken(name: String) throws {
        let target = try #require(FuzzTarget.all.first { $0.name == name })
        let inputs = try CorpusTests.inputs(in: CorpusTests.directory + name)
        #expect(!inputs.isEmpty, "there is no corpus of \(name)")
        for input in inputs { target.run(input) }
    }

    private static func inputs(in directory: String) throws -> [Bytes] {
        guard let listing = opendir(directory) else { return [] }
        defer { closedir(listing) }
        var inputs: [Bytes] = []
        while let entry = readdir(listing) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            guard !name.hasPrefix("."), let file = fopen("\(directory)/\(name)", "r") else { continue }
            defer { fclose(file) }
            var content = [UInt8](repeating: 0, count: 64 << 10)
            let count = fread(&content, 1, content.count, file)
            inputs.append(Bytes(Array(content[..<count])))
        }
        return inputs
    }
}
