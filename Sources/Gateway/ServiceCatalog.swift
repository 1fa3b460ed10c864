internal import CMessages
internal import CProtobufC

/// The messages of the services that a node may have, so that they can be told in JSON, and who calls them. What only
/// nodes of ours call of each other, or is not listed here, is reached by baidu_std alone.
///
/// A request without a body, or whose fields are all optional, changes nothing if it is answered over HTTP: browsers can be
/// made to send such.
struct ServiceCatalog {
    /// A method's messages.
    struct Method {
        var request: JsonMapping.Descriptor
        var reply: JsonMapping.Descriptor
        /// Only nodes of ours call it.
        var isForNodes = false
    }

    /// By service, in full, then by method.
    private var services: [String: [String: Method]] = [:]

    /// The messages of `method`; nil if they are not known.
    func method(_ service: String, _ method: String) -> Method? { services[service]?[method] }

    /// The services, in order.
    var names: [String] { services.keys.sorted() }

    /// The methods of `service`, in order.
    func methods(of service: String) -> [String] { (services[service] ?? [:]).keys.sorted() }

    /// Those that are answered over HTTP.
    func openMethods(of service: String) -> [String] {
        methods(of: service).filter { method(service, $0)?.isForNodes == false }
    }

    init() {
        braft()
        flotilla()
        cluster()
        for service in [
            "flotilla.NodeService", "flotilla.GuestService", "flotilla.LivenessService", "flotilla.GroupService",
            "flotilla.SnapshotService",
        ] {
            reserve(service, methods(of: service))
        }
        reserve(
            "flotilla.ClusterService",
            [
                "announce", "bootstrap", "change_peers", "create_replica", "digest", "form", "install_shards", "load",
                "move_status", "order", "read_move",
            ])
    }

    /// Has `methods` be called by nodes alone.
    private mutating func reserve(_ service: String, _ methods: [String]) {
        for method in methods {
            precondition(services[service]?[method] != nil, "there is no \(service).\(method)")
            services[service]?[method]?.isForNodes = true
        }
    }

    /// Adds a method by protobuf-c's `…__init` of both messages.
    private mutating func add<Q, R>(
        _ service: String, _ method: String, _ request: (UnsafeMutablePointer<Q>?) -> Void,
        _ reply: (UnsafeMutablePointer<R>?) -> Void
    ) {
        services[service, default: [:]][method] = Method(request: descriptor(request), reply: descriptor(reply))
    }

    /// A message's first word is its descriptor; the C constant itself has no stable address in Swift.
    private func descriptor<M>(_ initialize: (UnsafeMutablePointer<M>?) -> Void) -> JsonMapping.Descriptor {
        let message = UnsafeMutablePointer<M>.allocate(capacity: 1)
        defer { message.deallocate() }
        initialize(message)
        return UnsafeRawPointer(message).load(as: ProtobufCMessage.self).descriptor
    }

    private mutating func braft() {
        let raft = "braft.RaftService"
        add(raft, "pre_vote", braft__request_vote_request__init, braft__request_vote_response__init)
        add(raft, "request_vote", braft__request_vote_request__init, braft__request_vote_response__init)
        add(raft, "append_entries", braft__append_entries_request__init, braft__append_entries_response__init)
        add(raft, "install_snapshot", braft__install_snapshot_request__init, braft__install_snapshot_response__init)
        add(raft, "timeout_now", braft__timeout_now_request__init, braft__timeout_now_response__init)
        let cli = "braft.CliService"
        add(cli, "add_peer", braft__add_peer_request__init, braft__add_peer_response__init)
        add(cli, "remove_peer", braft__remove_peer_request__init, braft__remove_peer_response__init)
        add(cli, "change_peers", braft__change_peers_request__init, braft__change_peers_response__init)
        add(cli, "reset_peer", braft__reset_peer_request__init, braft__reset_peer_response__init)
        add(cli, "snapshot", braft__snapshot_request__init, braft__snapshot_response__init)
        add(cli, "get_leader", braft__get_leader_request__init, braft__get_leader_response__init)
        add(cli, "transfer_leader", braft__transfer_leader_request__init, braft__transfer_leader_response__init)
        add("braft.FileService", "get_file", braft__get_file_request__init, braft__get_file_response__init)
        add("braft.raft_stat", "default_method", braft__index_request__init, braft__index_response__init)
    }

    private mutating func flotilla() {
        add("flotilla.NodeService", "hello", flotilla__hello_request__init, flotilla__hello_reply__init)
        add(
            "flotilla.GuestService", "describe", flotilla__describe_replica_request__init,
            flotilla__describe_replica_reply__init)
        add("flotilla.LivenessService", "support", flotilla__support_request__init, flotilla__support_reply__init)
        let group = "flotilla.GroupService"
        add(group, "release", flotilla__release_request__init, flotilla__release_reply__init)
        add(group, "read_index", flotilla__read_index_request__init, flotilla__read_index_reply__init)
        add(group, "want_snapshot", flotilla__want_snapshot_request__init, flotilla__want_snapshot_reply__init)
        add(group, "compare_applied", flotilla__compare_applied_request__init, flotilla__compare_applied_reply__init)
        add(group, "fence", flotilla__fence_request__init, flotilla__fence_reply__init)
        let snapshots = "flotilla.SnapshotService"
        add(snapshots, "open", flotilla__snapshot_open_request__init, flotilla__snapshot_open_reply__init)
        add(snapshots, "read", flotilla__snapshot_read_request__init, flotilla__snapshot_read_reply__init)
        add(snapshots, "close", flotilla__snapshot_close_request__init, flotilla__snapshot_close_reply__init)
        // of a node that is started for it
        add("flotilla.FaultService", "set", flotilla__link_faults__init, flotilla__list_faults_reply__init)
        add("flotilla.FaultService", "list", flotilla__list_faults_request__init, flotilla__list_faults_reply__init)
        add("flotilla.KvService", "execute", flotilla__execute_request__init, flotilla__execute_reply__init)
    }

    private mutating func cluster() {
        let name = "flotilla.ClusterService"
        add(name, "announce", flotilla__announce_request__init, flotilla__announce_reply__init)
        add(name, "init", flotilla__init_request__init, flotilla__init_reply__init)
        add(name, "form", flotilla__init_request__init, flotilla__init_reply__init)
        add(name, "bootstrap", flotilla__bootstrap_request__init, flotilla__bootstrap_reply__init)
        add(name, "get_map", flotilla__get_map_request__init, flotilla__get_map_reply__init)
        add(name, "status", flotilla__status_request__init, flotilla__status_reply__init)
        add(name, "metrics", flotilla__metrics_request__init, flotilla__metrics_reply__init)
        add(name, "verify_group", flotilla__verify_group_request__init, flotilla__verify_group_reply__init)
        add(name, "transfer", flotilla__transfer_request__init, flotilla__transfer_reply__init)
        add(name, "operate", flotilla__operate_request__init, flotilla__operate_reply__init)
        add(name, "list_operations", flotilla__list_operations_request__init, flotilla__list_operations_reply__init)
        add(name, "plan", flotilla__plan_request__init, flotilla__plan_reply__init)
        add(name, "save_replica", flotilla__save_replica_request__init, flotilla__save_replica_reply__init)
        add(name, "reset_replica", flotilla__reset_replica_request__init, flotilla__reset_replica_reply__init)
        add(name, "schedule", flotilla__schedule_request__init, flotilla__schedule_reply__init)
        add(name, "create_replica", flotilla__create_replica_request__init, flotilla__create_replica_reply__init)
        add(name, "install_shards", flotilla__install_shards_request__init, flotilla__install_shards_reply__init)
        add(name, "digest", flotilla__digest_request__init, flotilla__digest_reply__init)
        add(name, "order", flotilla__order_request__init, flotilla__leader_reply__init)
        add(name, "move_status", flotilla__move_status_request__init, flotilla__leader_reply__init)
        add(name, "read_move", flotilla__read_move_request__init, flotilla__read_move_reply__init)
        add(name, "change_peers", flotilla__change_peers_request__init, flotilla__change_peers_reply__init)
        add(name, "load", flotilla__load_request__init, flotilla__load_reply__init)
    }
}
