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

    /// A short look around each of them: bytes changed, dropped, doubled and exchanged by chance, always the same.
    @Test(arguments: ["http", "json"]) func whatIsLikeThemIsTaken(name: String) throws {
        let target = try #require(FuzzTarget.all.first { $0.name == name })
        var random = SeededRandom(seed: 7)
        let inputs = try CorpusTests.inputs(in: CorpusTests.directory + name)
        for _ in 0..<300 {
            for input in inputs {
                var bytes = input.array
                for _ in 0...random.next() % 4 where !bytes.isEmpty {
                    let place = Int(random.next() % UInt64(bytes.count))
                    let end = min(bytes.count, place + Int(random.next() % 20))
                    switch random.next() % 5 {
                    case 0: bytes[place] = UInt8(truncatingIfNeeded: random.next())
                    case 1: bytes.removeSubrange(place..<end)
                    case 2: bytes.insert(contentsOf: bytes[place..<end], at: place)
                    case 3: bytes[place] ^= 1 << UInt8(random.next() % 8)
                    default: bytes += inputs[Int(random.next() % UInt64(inputs.count))].array.suffix(end - place)
                    }
                }
                target.run(Bytes(bytes))
            }
        }
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
