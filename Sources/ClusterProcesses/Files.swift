import Glibc

/// Files, without much ado.
public enum Files {
    /// Everything in a file.
    public static func read(_ path: String) throws -> [UInt8] {
        guard let file = fopen(path, "r") else { throw Failed("\(path) cannot be read (errno \(errno))") }
        defer { fclose(file) }
        var content: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while case let count = fread(&buffer, 1, buffer.count, file), count > 0 { content += buffer[0..<count] }
        return content
    }

    /// Everything in a file, as text.
    public static func text(_ path: String) throws -> String { String(decoding: try read(path), as: UTF8.self) }

    /// Makes `content` the whole of a file.
    public static func write(_ content: [UInt8], to path: String) throws {
        guard let file = fopen(path, "w") else { throw Failed("\(path) cannot be written (errno \(errno))") }
        defer { fclose(file) }
        let count = fwrite(content, 1, content.count, file)
        guard count == content.count else { throw Failed("\(path) cannot be written (errno \(errno))") }
    }

    /// The path of the file `name` in the directory of the program that runs.
    public static func besideThisProgram(_ name: String) -> String {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = buffer.withUnsafeMutableBytes { memory in
            memory.withMemoryRebound(to: CChar.self) { text in
                text.baseAddress.map { readlink("/proc/self/exe", $0, text.count) } ?? 0
            }
        }
        let path = String(decoding: buffer[0..<max(count, 0)], as: UTF8.self)
        guard let slash = path.lastIndex(of: "/") else { return name }
        return "\(path[..<slash])/\(name)"
    }

    /// Replaces bytes in the middle of a file.
    public static func overwrite(_ path: String, at offset: Int, with bytes: [UInt8]) throws {
        let descriptor = open(path, O_WRONLY)
        guard descriptor >= 0 else { throw Failed("\(path) cannot be opened (errno \(errno))") }
        defer { close(descriptor) }
        guard pwrite(descriptor, bytes, bytes.count, off_t(offset)) == bytes.count else {
            throw Failed("\(path) cannot be written (errno \(errno))")
        }
    }

    /// Names of what is in a directory but hidden, ascending.
    public static func list(_ directory: String) throws -> [String] {
        guard let stream = opendir(directory) else { throw Failed("\(directory) cannot be listed (errno \(errno))") }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names.sorted()
    }
}
