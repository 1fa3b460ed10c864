import ClusterProcesses
import FlotillaTestSupport
import RaftCore

/// A frame that real brafts exchanged, as a file in `Golden` keeps it.
struct GoldenFrame: CustomStringConvertible, Sendable {
    let isRequest: Bool
    let method: String
    /// What it shows.
    let text: String
    /// All of it, or its beginning.
    let bytes: [UInt8]
    /// How many bytes of the attachment are left out.
    let missing: Int
    /// Read by the tests' own code.
    let frame: BraftFrame

    var description: String { (isRequest ? "> " : "< ") + text }
    var message: WireFields { WireFields(frame.body) ?? WireFields() }

    /// All frames of a file of `Golden`.
    static func all(of file: String) throws -> [GoldenFrame] {
        let folder = String(#filePath.dropLast("GoldenFrames.swift".count)) + "Golden/"
        var frames: [GoldenFrame] = []
        var heading: Substring = ""
        for line in try Files.text(folder + file).split(separator: "\n") where !line.hasPrefix("#") {
            guard !line.hasPrefix(">"), !line.hasPrefix("<") else {
                heading = line
                continue
            }
            let text = heading.dropFirst(2)
            let words = line.split(separator: " ")
            let bytes = Hex.bytes(words[0])
            let missing = words.count > 1 ? Int(words[1]) ?? 0 : 0
            guard let method = text.split(separator: ":").first,
                let frame = BraftFrame(bytes + [UInt8](repeating: 0, count: missing))
            else { throw GoldenError(line: "\(file): \(heading)") }
            frames.append(
                GoldenFrame(
                    isRequest: heading.hasPrefix(">"), method: String(method), text: String(text), bytes: bytes,
                    missing: missing, frame: frame))
        }
        return frames
    }

    static func requests(_ method: String, in file: String = "RaftService.txt") throws -> [GoldenFrame] {
        try all(of: file).filter { $0.isRequest && $0.method == method }
    }

    static func answers(_ method: String, in file: String = "RaftService.txt") throws -> [GoldenFrame] {
        try all(of: file).filter { !$0.isRequest && $0.method == method }
    }
}

struct GoldenError: Error { let line: String }

enum Hex {
    static func bytes(_ text: some StringProtocol) -> [UInt8] {
        let digits = text.utf8.compactMap { digit -> UInt8? in
            switch digit {
            case 0x30...0x39: digit - 0x30
            case 0x61...0x66: digit - 0x61 + 10
            default: nil
            }
        }
        return stride(from: 0, to: digits.count - 1, by: 2).map { digits[$0] << 4 | digits[$0 + 1] }
    }
}
