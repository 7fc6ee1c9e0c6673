(* The names of the standard library that completions may use.

   The interfaces (.cmi) are filtered while the type checker loads them: a denied name is renamed to one that no source text
   can spell, so that no alias, [open], [include], functor or first-class module can reach it, and values keep their position
   in their module's block.  Modules that are not listed here are denied, the safe default for later OCaml versions. *)

let hidden name = name ^ " "

type values = Only of string list | Except of string list

let everything = Except []

(* The standard channels are allowed, since programs print; they are the null device. *)
let pervasives =
  Except
    [ "exit"; "at_exit"; "do_at_exit"; "do_domain_local_at_exit"; "open_out"; "open_out_bin"; "open_out_gen"; "open_in";
      "open_in_bin"; "open_in_gen"; "input_value"; "output_value" ]

let modules =
  [
    ("Arg", Except [ "parse"; "parse_dynamic"; "parse_expand"; "read_arg"; "read_arg0"; "write_arg"; "write_arg0" ]);
    ("Array", everything); ("ArrayLabels", everything); ("Atomic", everything);
    (* Denied: the runtime does not check the product of the new dimensions for overflow, so any memory could be read and
       written. *)
    ("Bigarray", Except [ "reshape"; "reshape_0"; "reshape_1"; "reshape_2"; "reshape_3" ]);
    ("Bool", everything); ("Buffer", everything); ("Bytes", everything); ("BytesLabels", everything);
    ("Char", everything); ("Complex", everything); ("Digest", Except [ "file" ]); ("Dynarray", everything);
    ("Either", everything); ("Ephemeron", everything);
    ( "Filename",
      Only
        [ "current_dir_name"; "parent_dir_name"; "dir_sep"; "concat"; "is_relative"; "is_implicit"; "check_suffix";
          "chop_suffix"; "chop_suffix_opt"; "extension"; "remove_extension"; "chop_extension"; "basename"; "dirname";
          "null"; "quote" ] );
    ("Float", everything); ("Format", everything); ("Fun", everything);
    ( "Gc",
      Only
        [ "stat"; "quick_stat"; "counters"; "minor_words"; "allocated_bytes"; "compact"; "full_major"; "major"; "minor";
          "major_slice"; "get"; "print_stat" ] );
    ("Genlex", everything); ("Hashtbl", everything);
    ("In_channel", Except [ "open_bin"; "open_text"; "open_gen"; "with_open_bin"; "with_open_text"; "with_open_gen" ]);
    ("Int", everything); ("Int32", everything); ("Int64", everything); ("Lazy", everything);
    ("Lexing", Except [ "engine"; "new_engine" ]);
    ("List", everything); ("ListLabels", everything); ("Map", everything); ("MoreLabels", everything);
    ("Nativeint", everything); ("Oo", Only [ "copy"; "id" ]); ("Option", everything);
    ("Out_channel", Except [ "open_bin"; "open_text"; "open_gen"; "with_open_bin"; "with_open_text"; "with_open_gen" ]);
    ("Parsing", Only []); ("Pervasives", pervasives);
    ( "Printexc",
      Except
        [ "catch"; "register_printer"; "set_uncaught_exception_handler"; "handle_uncaught_exception";
          "default_uncaught_exception_handler"; "use_printers" ] );
    ("Printf", everything); ("Queue", everything); ("Random", everything); ("Result", everything);
    ("Scanf", Except [ "open_in"; "open_in_bin"; "from_file"; "from_file_bin" ]);
    ("Seq", everything); ("Set", everything); ("Stack", everything); ("StdLabels", everything); ("Stream", everything);
    ("String", everything); ("StringLabels", everything);
    ( "Sys",
      Only
        [ "argv"; "executable_name"; "getenv"; "getenv_opt"; "interactive"; "os_type"; "backend_type"; "unix"; "win32";
          "cygwin"; "word_size"; "int_size"; "big_endian"; "max_string_length"; "max_array_length";
          "max_floatarray_length"; "time"; "ocaml_version"; "opaque_identity"; "runtime_variant"; "runtime_parameters";
          "enable_runtime_warnings"; "runtime_warnings_enabled"; "development_version"; "ocaml_release" ] );
    ("Type", everything); ("Uchar", everything); ("Unit", everything); ("Weak", everything);
  ]

(* Unchecked primitives are replaced by the checked ones of the same type, which does not affect honest programs. *)
let checked_primitive = function
  | "%array_unsafe_get" -> Some "%array_safe_get"
  | "%array_unsafe_set" -> Some "%array_safe_set"
  | "%floatarray_unsafe_get" -> Some "%floatarray_safe_get"
  | "%floatarray_unsafe_set" -> Some "%floatarray_safe_set"
  | "%string_unsafe_get" -> Some "%string_safe_get"
  | "%bytes_unsafe_get" -> Some "%bytes_safe_get"
  | "%bytes_unsafe_set" -> Some "%bytes_safe_set"
  | "%caml_ba_unsafe_ref_1" -> Some "%caml_ba_ref_1"
  | "%caml_ba_unsafe_ref_2" -> Some "%caml_ba_ref_2"
  | "%caml_ba_unsafe_ref_3" -> Some "%caml_ba_ref_3"
  | "%caml_ba_unsafe_set_1" -> Some "%caml_ba_set_1"
  | "%caml_ba_unsafe_set_2" -> Some "%caml_ba_set_2"
  | "%caml_ba_unsafe_set_3" -> Some "%caml_ba_set_3"
  | _ -> None

let starts_with prefix name =
  String.length name >= String.length prefix && String.sub name 0 (String.length prefix) = prefix

let allows values name =
  match values with
  | Only names -> List.mem name names
  | Except names -> not (List.mem name names || starts_with "unsafe_" name)

let rec filter_items values items =
  let open Types in
  let filter = function
    | Sig_value (id, ({ val_kind = Val_prim primitive; _ } as description), visibility) as item -> (
        match checked_primitive primitive.Primitive.prim_name with
        | Some name ->
            Sig_value (id, { description with val_kind = Val_prim (Compat.rename_primitive primitive name) }, visibility)
        | None -> filter_value values id description visibility item)
    | Sig_value (id, description, visibility) as item -> filter_value values id description visibility item
    | Sig_module (id, presence, ({ md_type = Mty_signature nested; _ } as declaration), recursive, visibility) ->
        let declaration = { declaration with md_type = Mty_signature (filter_items values nested) } in
        Sig_module (id, presence, declaration, recursive, visibility)
    (* A module can name its signature, as in Digest. *)
    | Sig_modtype (id, ({ mtd_type = Some (Mty_signature nested); _ } as declaration), visibility) ->
        let declaration = { declaration with mtd_type = Some (Mty_signature (filter_items values nested)) } in
        Sig_modtype (id, declaration, visibility)
    | item -> item
  in
  List.map filter items

and filter_value values id description visibility item =
  let name = Ident.name id in
  if allows values name then item
  else Types.Sig_value (Ident.create_local (hidden name), description, visibility)

let hide_unlisted_modules items =
  let open Types in
  let hide = function
    | Sig_module (id, presence, declaration, recursive, visibility) when not (List.mem_assoc (Ident.name id) modules) ->
        Sig_module (Ident.create_local (hidden (Ident.name id)), presence, declaration, recursive, visibility)
    | item -> item
  in
  List.map hide items

(* The filtered interface of a compilation unit.  The Camlinternal* units are needed by the compiler's own expansions
   (formats, objects, lazy); [denied_token] keeps sources from naming them. *)
let filter_unit name items =
  if name = "Stdlib" then Some (hide_unlisted_modules (filter_items pervasives items))
  else if starts_with "Camlinternal" name then Some items
  else if starts_with "Stdlib__" name then
    let short = String.sub name 8 (String.length name - 8) in
    let values = match List.assoc_opt short modules with Some values -> values | None -> Only [] in
    Some (filter_items values items)
  else None

(* Units outside the standard library that only serve purposes denied here. *)
let foreign_units =
  [ "Unix"; "UnixLabels"; "Thread"; "Mutex"; "Condition"; "Event"; "Dynlink"; "Toploop"; "Topdirs"; "Obj"; "Marshal";
    "Domain"; "Effect"; "Semaphore"; "Runtime_events"; "Callback" ]

(* Every token that the next function denies contains one of these. *)
let spellings_of_denied_tokens = [ "external"; "[%"; "{%"; "Camlinternal"; "Stdlib__" ]

let denied_token : Parser.token -> string option = function
  | EXTERNAL -> Some "external"
  | LBRACKETPERCENT | LBRACKETPERCENTPERCENT | QUOTED_STRING_EXPR _ | QUOTED_STRING_ITEM _ -> Some "an extension node"
  | UIDENT name when starts_with "Camlinternal" name || starts_with "Stdlib__" name -> Some name
  | _ -> None

(* The second layer: the C primitives that compiled code may call, independent of the type checker.  The compiler itself
   emits those of the first list (copies of records and arrays, lazy values, recursive values). *)
let forbidden_primitive name =
  let allowed_of_a_forbidden_kind =
    [ "caml_sys_time"; "caml_sys_getenv"; "caml_sys_argv"; "caml_sys_executable_name"; "caml_sys_random_seed";
      "caml_sys_const_max_wosize"; "caml_obj_tag"; "caml_obj_dup"; "caml_obj_with_tag"; "caml_obj_block" ]
  and forbidden =
    [ "caml_sys_"; "caml_obj_"; "caml_ml_open_"; "caml_ml_out_channels_list"; "caml_input_value"; "caml_output_value";
      "caml_reify"; "caml_static"; "caml_realloc"; "caml_get_global"; "caml_get_section"; "caml_register";
      "caml_unregister"; "caml_final_"; "caml_install"; "caml_memprof"; "caml_thread"; "caml_dynlink"; "caml_lex_engine";
      "caml_new_lex_engine"; "caml_parse_engine"; "caml_set_oo_id"; "caml_debugger"; "caml_invoke_traced"; "unix_";
      "caravan_"; "caml_ba_reshape"; "caml_unix_"; "caml_domain"; "caml_continuation"; "caml_get_continuation"; "caml_alloc_stack"; "caml_ml_mutex";
      "caml_ml_condition"; "caml_ml_domain"; "caml_ml_runtime_events"; "caml_runtime_events"; "caml_eventlog";
      "caml_channel_descriptor"; "caml_ml_set_channel_name"; "caml_int_as_pointer"; "caml_gc_set"; "caml_marshal";
      "caml_get_current_environment"; "caml_process_pending"; "caml_reset_afl"; "caml_terminfo"; "caml_xdg"; "caml_zstd" ]
  in
  (not (List.mem name allowed_of_a_forbidden_kind)) && List.exists (fun prefix -> starts_with prefix name) forbidden
