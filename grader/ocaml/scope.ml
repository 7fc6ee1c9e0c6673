(* The scope of names.  The job is one structure, typed with the real standard library bound to [Std']:

     module Given' = struct (definitions of the statement) end
     module Solution' = struct open Given' (the completion) end
     let run' step' check' ... = let module Tests' = struct (the problem's names, the tests) end in ()

   (x' stands for an unlexable name).  The tests see Given', then Solution', then the predefined names and the standard
   library, which shadow the former, so that [=], [not], [List], [true] and [list] are the real ones whatever the completion
   defines; only names that the problem itself asks for are bound over those again. *)

open Parsetree
open Ast_helper

let given = "Given "
let solution = "Solution "
let tests = "Tests "
let run = "run "
let located = Location.mknoloc
let path_in modname name = located (Longident.Ldot (Longident.Lident modname, name))
let open_module name = Str.open_ (Opn.mk ~override:Asttypes.Override (Mod.ident (located (Longident.Lident name))))
let define_module name items = Str.module_ (Mb.mk (located (Some name)) (Mod.structure items))

let value_of modname name =
  Str.value Asttypes.Nonrecursive [ Vb.mk (Pat.var (located name)) (Exp.ident (path_in modname name)) ]

(* Bound once, in the initial environment of every job. *)
let standard = Str.module_ (Mb.mk (located (Some Rewrite.std)) (Mod.ident (located (Longident.Lident "Stdlib"))))

let given_module items = define_module given items
let is_open item = match item.pstr_desc with Pstr_open _ -> true | _ -> false

(* A module that the statement opens is not part of its definitions; it is opened again next to them. *)
let with_given ~given_items items =
  if given_items = [] then items else (open_module given :: List.filter is_open given_items) @ items

let solution_module ~given_items items = define_module solution (with_given ~given_items items)

let rec pattern_names pattern =
  match pattern.ppat_desc with
  | Ppat_var { txt; _ } -> [ txt ]
  | Ppat_alias (inner, { txt; _ }) -> txt :: pattern_names inner
  | Ppat_tuple parts | Ppat_array parts -> List.concat_map pattern_names parts
  | Ppat_record (fields, _) -> List.concat_map (fun (_, inner) -> pattern_names inner) fields
  | Ppat_constraint (inner, _) | Ppat_lazy inner | Ppat_open (_, inner) -> pattern_names inner
  | _ -> []

(* Values that a structure binds at its top level. *)
let rec defined_values items =
  let in_item item =
    match item.pstr_desc with
    | Pstr_value (_, bindings) -> List.concat_map (fun binding -> pattern_names binding.pvb_pat) bindings
    | Pstr_primitive { pval_name; _ } -> [ pval_name.txt ]
    | Pstr_include { pincl_mod = { pmod_desc = Pmod_structure nested; _ }; _ }
    | Pstr_open { popen_expr = { pmod_desc = Pmod_structure nested; _ }; _ } ->
        defined_values nested
    | _ -> []
  in
  List.concat_map in_item items

(* Names of the modules that a structure defines, nested ones included, since they may be opened in turn. *)
let rec defined_modules items =
  let of_binding binding = Option.to_list binding.pmb_name.txt @ within binding.pmb_expr in
  let in_item item =
    match item.pstr_desc with
    | Pstr_module binding -> of_binding binding
    | Pstr_recmodule bindings -> List.concat_map of_binding bindings
    | Pstr_open { popen_expr; _ } -> within popen_expr
    | Pstr_include { pincl_mod; _ } -> within pincl_mod
    | _ -> []
  in
  List.concat_map in_item items

and within module_expr =
  match module_expr.pmod_desc with
  | Pmod_structure items -> defined_modules items
  | Pmod_constraint (inner, _) | Pmod_functor (_, inner) -> within inner
  | _ -> []

let rec root : Longident.t -> string = function
  | Lident name -> name
  | Ldot (prefix, _) | Lapply (prefix, _) -> root prefix

let rec is_own ~own module_expr =
  match module_expr.pmod_desc with
  | Pmod_ident { txt; _ } -> List.mem (root txt) own
  | Pmod_structure _ -> true
  | Pmod_constraint (inner, _) | Pmod_apply (inner, _) -> is_own ~own inner
  | _ -> false

(* The structure with includes in place of opens of its own modules; None if there are none. *)
let with_opened_included items =
  let own = defined_modules items in
  let included item =
    match item.pstr_desc with
    | Pstr_open { popen_expr; _ } when is_own ~own popen_expr -> Str.include_ ~loc:item.pstr_loc (Incl.mk popen_expr)
    | _ -> item
  in
  let changed = List.map included items in
  if List.for_all2 ( == ) items changed then None else Some changed

(* The ways in which a structure can export a value of a module it opens, the last open first.  Only its own modules count:
   a value of an opened library module is not defined by it. *)
let with_opened_value ~name items =
  let own = defined_modules items in
  let opened number = Printf.sprintf "Opened %d " number in
  let named number item =
    match item.pstr_desc with
    | Pstr_open { popen_expr; _ } when is_own ~own popen_expr ->
        [ Str.module_ (Mb.mk (located (Some (opened number))) popen_expr); open_module (opened number) ]
    | _ -> [ item ]
  in
  let parts = List.mapi named items in
  let handing_on number = function
    | [ _; _ ] -> Some (List.concat parts @ [ value_of (opened number) name ])
    | _ -> None
  in
  List.rev (List.filter_map Fun.id (List.mapi handing_on parts))

(* True if a value is named anywhere in some bindings. *)
let mentions name bindings =
  let found = ref false in
  let default = Ast_iterator.default_iterator in
  let expr iterator expression =
    match expression.pexp_desc with
    | Pexp_ident { txt = Longident.Lident used; _ } when used = name -> found := true
    | _ -> default.expr iterator expression
  in
  List.iter (fun binding -> expr { default with expr } binding.pvb_expr) bindings;
  !found

(* Top-level names of the typed completion. *)
let defined_in_solution signature =
  let inside = function
    | Types.Sig_module (id, _, { md_type = Mty_signature items; _ }, _, _) when Ident.name id = solution -> items
    | _ -> []
  in
  List.concat_map inside signature

let solution_has signature is_it = List.exists is_it (defined_in_solution signature)
let defines_only_values signature =
  List.for_all (function Types.Sig_value _ -> true | _ -> false) (defined_in_solution signature)

let binds_value signature name =
  solution_has signature (function Types.Sig_value (id, _, _) -> Ident.name id = name | _ -> false)

(* The module that defines a name of the problem: the completion's definition shadows the statement's. *)
let home signature ~is_it = if solution_has signature is_it then solution else given

let type_from signature ~clashes declarations =
  let source declaration =
    let name = declaration.ptype_name.txt in
    let is_it = function Types.Sig_type (id, _, _, _) -> Ident.name id = name | _ -> false in
    let parameters = List.map fst declaration.ptype_params in
    let manifest = Typ.constr (path_in (home signature ~is_it) name) parameters in
    { declaration with ptype_manifest = Some manifest; ptype_attributes = [] }
  in
  let constructors declaration =
    match declaration.ptype_kind with
    | Ptype_variant constructors -> List.map (fun constructor -> constructor.pcd_name.txt) constructors
    | _ -> []
  in
  let clashing declaration = List.exists clashes (declaration.ptype_name.txt :: constructors declaration) in
  if List.exists clashing declarations then [ List.map source declarations ] else []

(* Constructors of the statement's types that the completion redefined as exceptions or as constructors of an open type.
   These can be bound to one another ([exception Green = Red]), which would make every value equal to every other. *)
let opened_constructors environment given_items =
  let is_open { pcd_name; _ } =
    match Env.find_constructor_by_name (Longident.Ldot (Lident solution, pcd_name.txt)) environment with
    | { cstr_tag = Cstr_extension _; _ } -> true
    | _ | (exception Not_found) -> false
  in
  let of_declaration declaration =
    match declaration.ptype_kind with Ptype_variant constructors -> List.filter is_open constructors | _ -> []
  in
  let of_item item =
    match item.pstr_desc with Pstr_type (_, declarations) -> List.concat_map of_declaration declarations | _ -> []
  in
  List.map (fun { pcd_name; _ } -> pcd_name.txt) (List.concat_map of_item given_items)

(* Modules and classes of the statement that the completion redefines: the tests would use those.  A copy of the statement's
   definition, which the completion's own types may need, is allowed. *)
let replaced_modules signature ~given_items items =
  let definition name item =
    match item.pstr_desc with
    | Pstr_module ({ pmb_name = { txt = Some defined; _ }; _ } as binding) when defined = name ->
        Some (Format.asprintf "%a" Pprintast.structure [ Str.module_ { binding with pmb_attributes = [] } ])
    | _ -> None
  in
  let includes = List.exists (fun item -> match item.pstr_desc with Pstr_include _ -> true | _ -> false) items in
  let replaced item =
    match item.pstr_desc with
    | Pstr_module { pmb_name = { txt = Some name; _ }; _ } ->
        let is_it = function Types.Sig_module (id, _, _, _, _) -> Ident.name id = name | _ -> false in
        let copies = List.filter_map (definition name) items in
        let faithful = copies <> [] && List.for_all (fun copy -> Some copy = definition name item) copies in
        if solution_has signature is_it && (includes || not faithful) then [ name ] else []
    | Pstr_recmodule bindings ->
        let name binding = Option.to_list binding.pmb_name.txt in
        let is_it name = function Types.Sig_module (id, _, _, _, _) -> Ident.name id = name | _ -> false in
        List.filter (fun name -> solution_has signature (is_it name)) (List.concat_map name bindings)
    | Pstr_class declarations ->
        let is_it name = function Types.Sig_class (id, _, _, _) -> Ident.name id = name | _ -> false in
        List.filter
          (fun name -> solution_has signature (is_it name))
          (List.map (fun declaration -> declaration.pci_name.txt) declarations)
    | _ -> []
  in
  List.concat_map replaced given_items

(* Constructors that the tests name and that the completion binds to another one ([exception Green = Red]), which would make
   every value equal to every other.  Predefined ones as well: after [type b += false = true] the type of [f 3] decides which
   [false] the test compares it with. *)
let rebound_constructors ~tests items =
  let default = Ast_iterator.default_iterator in
  let rebound = Hashtbl.create 8 and named = ref [] in
  let extension_constructor iterator constructor =
    (match constructor.pext_kind with Pext_rebind _ -> Hashtbl.replace rebound constructor.pext_name.txt () | _ -> ());
    default.extension_constructor iterator constructor
  in
  let in_completion = { default with extension_constructor } in
  in_completion.structure in_completion items;
  let name (lid : Longident.t Location.loc) = named := Longident.last lid.txt :: !named in
  let expr iterator expression =
    (match expression.pexp_desc with Pexp_construct (lid, _) -> name lid | _ -> ());
    default.expr iterator expression
  and pat iterator pattern =
    (match pattern.ppat_desc with Ppat_construct (lid, _) -> name lid | _ -> ());
    default.pat iterator pattern
  in
  let in_tests = { default with expr; pat } in
  if Hashtbl.length rebound > 0 then in_tests.structure in_tests tests;
  List.sort_uniq compare (List.filter (Hashtbl.mem rebound) !named)

(* The problem's own names, bound over those of the standard library; [name] is empty if the signature binds a pattern.  A
   function of the statement that the completion redefines is compiled again here, as the statement defines it. *)
let problem_names ~environment ~signature ~given_items ~name =
  let found find key = match find key environment with _ -> true | exception Not_found -> false in
  let clashing_type key = found Env.find_type_by_name (Longident.Lident key) in
  let clashing_constructor key = List.mem key [ "Some"; "None"; "Ok"; "Error"; "true"; "false"; "[]"; "::"; "()" ] in
  let clashes key = clashing_type key || clashing_constructor key in
  let rebind item =
    match item.pstr_desc with
    | Pstr_type (recursive, declarations) -> List.map (Str.type_ recursive) (type_from signature ~clashes declarations)
    | Pstr_exception { ptyexn_constructor = { pext_name; _ }; _ } ->
        let is_it = function Types.Sig_typext (id, _, _, _) -> Ident.name id = pext_name.txt | _ -> false in
        let source = path_in (home signature ~is_it) pext_name.txt in
        [ Str.exception_ (Te.mk_exception (Te.rebind pext_name source)) ]
    | Pstr_module { pmb_name = { txt = Some modname; _ } as pmb_name; _ } ->
        let is_it = function Types.Sig_module (id, _, _, _, _) -> Ident.name id = modname | _ -> false in
        [ Str.module_ (Mb.mk pmb_name (Mod.ident (path_in (home signature ~is_it) modname))) ]
    | Pstr_value _ ->
        let names = defined_values [ item ] in
        if List.exists (binds_value signature) names then [ item ] else List.map (value_of given) names
    | Pstr_include { pincl_mod = { pmod_desc = Pmod_structure nested; _ }; _ } ->
        List.map (value_of given) (defined_values nested)
    | Pstr_open _ -> [ item ]
    | _ -> []
  in
  List.concat_map rebind given_items @ if name = "" then [] else [ value_of solution name ]

let environment_of_tests environment ~given_items =
  let modules = if given_items = [] then [ solution ] else [ given; solution ] in
  let path modname = fst (Env.find_module_by_name (Longident.Lident modname) environment) in
  let opened environment path = Result.get_ok (Env.open_signature Asttypes.Override path environment) in
  let standard = path Rewrite.std in
  opened (Compat.add_predefined (List.fold_left opened environment (List.map path modules))) standard

(* A solution with that one value, laid out like the unit of a job whose tests are compiled separately: link.ml also knows
   the unit by the solution's name. *)
let with_only_value environment ~name value =
  let field name = Types.Sig_value (Ident.create_local name, value, Types.Exported) in
  let seen = Types.Mty_signature [ field solution; field name ] in
  Env.add_module (Ident.create_persistent solution) Types.Mp_present seen environment

let run_function ~problem_names ~tests:items =
  (* Tests may write [Stdlib.compare], and a completion may define a module of that name. *)
  let stdlib = Str.module_ (Mb.mk (located (Some "Stdlib")) (Mod.ident (located (Longident.Lident Rewrite.std)))) in
  let body = Exp.letmodule (located (Some tests)) (Mod.structure ((stdlib :: problem_names) @ items)) Rewrite.unit in
  let constr name = Typ.constr (located (Longident.Lident name)) [] in
  let arrow = Typ.arrow Asttypes.Nolabel in
  let lazily result = arrow (constr "int") (arrow (arrow (constr "unit") result) (constr "unit")) in
  let parameter (name, typ) body = Compat.lambda (Pat.constraint_ (Pat.var (located name)) typ) body in
  let parameters =
    [
      (Rewrite.step_name, lazily (constr "unit"));
      (Rewrite.check_name, lazily (constr "bool"));
      (Rewrite.check_through_name, lazily (constr "bool"));
      (Rewrite.failure_name, arrow (constr "int") (constr "exn"));
    ]
  in
  Str.value Asttypes.Nonrecursive [ Vb.mk (Pat.var (located run)) (List.fold_right parameter parameters body) ]
