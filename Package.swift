// swift-tools-version: 6.2
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error)]

/// A Swift module of the project; what it may import is exactly what it lists.
func module(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
    .target(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: strict)
}

func suite(
    _ name: String, _ dependencies: [Target.Dependency], exclude: [String] = [], resources: [Resource] = []
) -> Target {
    .testTarget(
        name: name, dependencies: dependencies, exclude: exclude, resources: resources, swiftSettings: strict)
}

let package = Package(
    name: "Flotilla",
    products: [
        .library(name: "Flotilla", targets: ["Flotilla", "RaftCore", "RaftHost"]),
        .library(name: "FlotillaClient", targets: ["RaftCore", "ShardMap", "ShardClient"]),
        .library(name: "FlotillaTestSupport", targets: ["FlotillaTestSupport"]),
        .executable(name: "raftd", targets: ["raftd"]),
        .executable(name: "raftctl", targets: ["raftctl"]),
        .executable(name: "raftbench", targets: ["raftbench"]),
        .executable(name: "raftsim", targets: ["raftsim"]),
    ],
    targets: [
        // 0: C
        .systemLibrary(name: "CProtobufC", pkgConfig: "libprotobuf-c", providers: [.apt(["libprotobuf-c-dev"])]),
        .systemLibrary(name: "CUV", pkgConfig: "libuv", providers: [.apt(["libuv1-dev"])]),
        .systemLibrary(name: "CRocksDB", pkgConfig: "rocksdb", providers: [.apt(["librocksdb-dev"])]),
        .systemLibrary(name: "CISAL", pkgConfig: "libisal", providers: [.apt(["libisal-dev"])]),
        .systemLibrary(name: "CHTTPParser", providers: [.apt(["libhttp-parser-dev"])]),
        .systemLibrary(name: "CJansson", pkgConfig: "jansson", providers: [.apt(["libjansson-dev"])]),
        .target(name: "CMessages", dependencies: ["CProtobufC"]),
        .target(name: "CAllocations"),
        // 1: the algorithm; routes, epochs, errors
        module("RaftCore", []),
        module("WireMessages", ["RaftCore", "CMessages", "CProtobufC"]),
        module("ShardMap", ["RaftCore", "WireMessages", "CMessages"]),
        // 2: one resource each; pure state machines
        module("RaftStorage", ["RaftCore", "CISAL"]),
        module("Transport", ["RaftCore", "WireMessages", "CMessages", "CProtobufC", "CUV"]),
        module("ShardKV", ["RaftCore", "ShardMap", "WireMessages", "CMessages", "CProtobufC"]),
        // 3: resources joined
        module("RaftHost", ["RaftCore", "RaftStorage", "Transport", "WireMessages", "CMessages", "CProtobufC"]),
        module("RocksEngine", ["RaftCore", "ShardKV", "CRocksDB"]),
        module("ShardClient", ["RaftCore", "ShardMap", "Transport", "WireMessages", "CMessages", "CProtobufC"]),
        // 4: the service and its faces
        module(
            "ShardServer",
            [
                "RaftCore", "ShardMap", "RaftStorage", "Transport", "ShardKV", "RaftHost", "ShardClient",
                "WireMessages", "CMessages", "CProtobufC",
            ]),
        module(
            "Gateway",
            [
                "RaftCore", "ShardMap", "Transport", "ShardClient", "WireMessages", "CMessages", "CProtobufC",
                "CHTTPParser", "CJansson",
            ]),
        module(
            "FlotillaTestSupport",
            [
                "RaftCore", "RaftHost", "ShardMap", "ShardClient", "Transport", "NodeRuntime", "WireMessages",
                "CMessages",
                "CProtobufC",
            ]),
        // 5: one running node
        module(
            "NodeRuntime",
            [
                "RaftCore", "ShardMap", "RaftStorage", "Transport", "ShardKV", "RocksEngine", "RaftHost", "ShardClient",
                "ShardServer", "Gateway", "WireMessages", "CMessages",
            ]),
        module("Flotilla", ["RaftCore", "RaftStorage", "Transport", "RaftHost"]),
        module(
            "Simulator",
            [
                "RaftCore", "ShardMap", "RaftStorage", "Transport", "ShardKV", "RaftHost", "ShardClient", "ShardServer",
                "WireMessages", "CMessages", "CProtobufC",
            ]),
        // 6: processes
        .executableTarget(name: "CounterExample", dependencies: ["RaftCore", "Flotilla"], swiftSettings: strict),
        .executableTarget(
            name: "raftd", dependencies: ["RaftCore", "RaftHost", "NodeRuntime"], swiftSettings: strict),
        .executableTarget(
            name: "raftctl",
            dependencies: [
                "RaftCore", "RaftStorage", "ShardMap", "ShardClient", "Transport", "WireMessages", "CMessages",
                "CProtobufC",
            ],
            swiftSettings: strict),
        .executableTarget(
            name: "raftbench",
            dependencies: [
                "RaftCore", "RaftStorage", "ShardMap", "Transport", "ShardClient", "ClusterProcesses",
                "FlotillaTestSupport", "CAllocations",
            ],
            swiftSettings: strict),
        module("ClusterProcesses", ["FlotillaTestSupport", "RaftCore", "ShardClient", "Transport"]),
        .executableTarget(
            name: "crashtest",
            dependencies: ["ClusterProcesses", "FlotillaTestSupport", "RaftCore", "ShardMap", "ShardClient"],
            swiftSettings: strict),
        .executableTarget(name: "raftsim", dependencies: ["Simulator"], swiftSettings: strict),
        suite("RaftCoreTests", ["RaftCore"], exclude: ["Traces"]),
        suite("RaftStorageTests", ["RaftCore", "RaftStorage"]),
        suite("TransportTests", ["RaftCore", "Transport", "WireMessages", "CMessages", "CProtobufC"]),
        suite("ShardKVTests", ["RaftCore", "ShardMap", "ShardKV", "RocksEngine", "WireMessages", "CMessages"]),
        suite(
            "ShardClientTests", ["RaftCore", "ShardMap", "ShardClient", "Transport", "WireMessages", "CMessages"]),
        suite("ShardServerTests", ["RaftCore", "ShardMap", "ShardServer"]),
        suite(
            "RaftHostTests",
            ["RaftCore", "RaftStorage", "Transport", "RaftHost", "Simulator", "WireMessages", "CMessages"]),
        suite(
            "SimulatorTests",
            [
                "RaftCore", "RaftStorage", "Transport", "ShardMap", "ShardKV", "ShardServer", "Simulator",
                "WireMessages",
                "raftsim",
            ]),
        suite(
            "RaftbenchTests",
            [
                "RaftCore", "RaftStorage", "ShardMap", "ClusterProcesses", "FlotillaTestSupport", "CAllocations",
                "raftbench", "raftd",
            ]),
        suite("RaftctlTests", ["RaftCore", "RaftStorage", "ShardMap", "WireMessages", "CMessages", "raftctl"]),
        suite(
            "ClusterTests",
            [
                "ClusterProcesses", "FlotillaTestSupport", "RaftCore", "ShardMap", "ShardClient", "Transport",
                "ShardKV", "RocksEngine", "NodeRuntime", "CMessages", "WireMessages", "raftd", "raftctl",
            ],
            exclude: ["Scripts"]),
        suite(
            "FlotillaTests",
            [
                "ClusterProcesses", "FlotillaTestSupport", "RaftCore", "RaftHost", "ShardMap", "ShardClient",
                "Flotilla",
                "CounterExample", "WireMessages", "CMessages",
            ]),
        suite(
            "ConformanceTests",
            [
                "FlotillaTestSupport", "ClusterProcesses", "RaftCore", "Transport", "RaftHost", "NodeRuntime",
                "Flotilla",
                "WireMessages", "CMessages", "CProtobufC",
            ],
            exclude: ["Golden"]),
        suite(
            "GatewayTests",
            [
                "RaftCore", "ShardMap", "ShardClient", "Transport", "Gateway", "WireMessages", "CMessages",
                "CProtobufC",
            ]),
    ],
    swiftLanguageModes: [.v6]
)

// What is fuzzed is a test suite that runs the corpus once, or, for tools/fuzz alone, a program that looks for more.
let fuzzed: [Target.Dependency] = [
    "RaftCore", "ShardMap", "RaftStorage", "Transport", "ShardKV", "RaftHost", "Gateway", "WireMessages", "CMessages",
    "CProtobufC", "raftctl",
]
if Context.environment["FLOTILLA_FUZZ"] == nil {
    package.targets.append(suite("FuzzTests", fuzzed, exclude: ["Corpus", "main.swift"]))
} else {
    // a library here, for a program has one entry
    package.targets.removeAll { $0.name == "raftctl" || $0.isTest }
    package.products.removeAll { $0.name == "raftctl" }
    package.targets.append(
        module(
            "raftctl",
            [
                "RaftCore", "RaftStorage", "ShardMap", "ShardClient", "Transport", "WireMessages", "CMessages",
                "CProtobufC",
            ],
            exclude: ["Raftctl.swift"]))
    package.targets.append(
        .executableTarget(
            name: "raftfuzz", dependencies: fuzzed, path: "Tests/FuzzTests", exclude: ["Corpus", "CorpusTests.swift"],
            swiftSettings: strict))
}
