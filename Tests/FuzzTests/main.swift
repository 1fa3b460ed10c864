import Glibc
import RaftCore

// The program that tools/fuzz builds: the target named by FUZZ_TARGET under libFuzzer, whose arguments it takes.

@_silgen_name("LLVMFuzzerRunDriver")
private func runLibFuzzer(
    _ count: UnsafeMutablePointer<CInt>,
    _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>>,
    _ body: @convention(c) (UnsafePointer<UInt8>?, Int) -> CInt
) -> CInt

private let name = getenv("FUZZ_TARGET").map { String(cString: $0) } ?? ""
guard let chosen = FuzzTarget.all.first(where: { $0.name == name }) else {
    for target in FuzzTarget.all { print(target.name) }
    exit(name.isEmpty ? 0 : 2)
}
private let target = chosen
private var count = CommandLine.argc
private var arguments = CommandLine.unsafeArgv
exit(
    runLibFuzzer(&count, &arguments) { bytes, count in
        target.run(Bytes(copying: UnsafeRawBufferPointer(start: bytes, count: count)))
        return 0
    })
