import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore

/// Something bad done to the files of a node that does not run.
struct Damage {
    /// What was done, for people.
    var description: String

    /// Hurts what lies in `directory` by chance; nil if there is nothing yet that could be hurt in that way.
    static func inflict(on directory: String, _ random: inout SeededRandom) throws -> Damage? {
        switch random.number(in: 0..<14) {
        case 0..<5: return try flip(pick(try segments(directory), &random), &random)
        case 5: return try truncate(pick(try segments(directory), &random), &random)
        case 6: return try drop(pick(try segments(directory), &random))
        case 7: return try flip(existing("\(directory)/log/CHECKPOINT"), &random)
        case 8: return try drop(existing("\(directory)/log/CHECKPOINT"))
        case 9: return removeAll(existing("\(directory)/store"))
        default: return try flip(pick(try tables(directory), &random), &random)
        }
    }

    private static func segments(_ directory: String) throws -> [String] {
        try Files.list("\(directory)/log").filter { $0.hasSuffix(".log") }.map { "\(directory)/log/\($0)" }
    }

    private static func tables(_ directory: String) throws -> [String] {
        try Files.list("\(directory)/store").filter { $0.hasSuffix(".sst") }.map { "\(directory)/store/\($0)" }
    }

    private static func existing(_ file: String) -> String? { access(file, F_OK) == 0 ? file : nil }

    private static func pick(_ files: [String], _ random: inout SeededRandom) -> String? {
        files.isEmpty ? nil : files[Int(random.number(in: 0..<Int64(files.count)))]
    }

    /// Changes a bit in front of the zeros at a file's end.
    private static func flip(_ file: String?, _ random: inout SeededRandom) throws -> Damage? {
        guard let file, let place = try place(in: file, &random) else { return nil }
        let byte = try Files.read(file)[place]
        try Files.overwrite(file, at: place, with: [byte ^ 1 << UInt8(random.number(in: 0..<8))])
        return Damage(description: "flipped a bit of \(name(of: file)) at \(place)")
    }

    private static func truncate(_ file: String?, _ random: inout SeededRandom) throws -> Damage? {
        guard let file, let place = try place(in: file, &random) else { return nil }
        guard Glibc.truncate(file, off_t(place)) == 0 else { throw Failed("\(file) cannot be cut (errno \(errno))") }
        return Damage(description: "cut \(name(of: file)) at \(place)")
    }

    private static func drop(_ file: String?) throws -> Damage? {
        guard let file else { return nil }
        guard unlink(file) == 0 else { throw Failed("\(file) cannot be removed (errno \(errno))") }
        return Damage(description: "removed \(name(of: file))")
    }

    /// A whole directory.
    private static func removeAll(_ directory: String?) -> Damage? {
        guard let directory else { return nil }
        TemporaryDirectory.remove(directory)
        return Damage(description: "removed \(name(of: directory))")
    }

    private static func place(in file: String, _ random: inout SeededRandom) throws -> Int? {
        guard let last = try Files.read(file).lastIndex(where: { $0 != 0 }) else { return nil }
        return Int(random.number(in: 0..<Int64(last + 1)))
    }

    private static func name(of file: String) -> String {
        file.split(separator: "/").suffix(2).joined(separator: "/")
    }
}
