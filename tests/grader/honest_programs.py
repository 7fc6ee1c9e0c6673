# ruff: noqa: E501  (OCaml programs, one per entry)
"""Correct programs of many forms: name -> (prompt, tests, completion)."""

HONEST: dict[str, tuple[str, str, str]] = {
    "own_operators": (
        "(** Sum of squares. *)\nlet sum_squares (a : int) (b : int) : int =",
        "let () = assert (sum_squares 3 4 = 25); assert (sum_squares 0 1 = 1)",
        "let ( ** ) x n = if n = 2 then x * x else x\nlet ( |+| ) a b = (a ** 2) + (b ** 2)\n"
        "let sum_squares a b = a |+| b",
    ),
    "the_problem_asks_for_an_operator": (
        "(** Saturating addition. *)\nlet ( +! ) (a : int) (b : int) : int =",
        "let () = assert (1 +! 2 = 3); assert (99 +! 5 = 100)",
        "let ( +! ) a b = min 100 (a + b)",
    ),
    "a_module_that_is_opened": (
        "(** Twice. *)\nlet double (x : int) : int =",
        "let () = assert (double 3 = 6); assert (double 0 = 0)",
        "module Solution = struct\n  let add a b = a + b\n  let double x = add x x\nend\nopen Solution",
    ),
    "a_structure_that_is_opened": (
        "(** Twice. *)\nlet double (x : int) : int =",
        "let () = assert (double 3 = 6); assert (double 0 = 0)",
        "open struct\n  let ( = ) _ _ = false\n  let double x = x + x\nend",
    ),
    "a_module_that_repeats_the_problems_type": (
        "type tree = Leaf | Node of tree * int * tree\n(** Sum of a tree. *)\nlet rec sum_tree (t : tree) : int =",
        "let () = assert (sum_tree Leaf = 0); assert (sum_tree (Node (Leaf, 2, Node (Leaf, 3, Leaf))) = 5)",
        "module Tree = struct\n  type tree = Leaf | Node of tree * int * tree\n"
        "  let rec sum_tree = function Leaf -> 0 | Node (l, n, r) -> sum_tree l + n + sum_tree r\nend\nopen Tree",
    ),
    "a_script_with_directives": (
        "(** Twice. *)\nlet double (x : int) : int =",
        "let () = assert (double 3 = 6); assert (double 0 = 0)",
        '#use "topfind";;\n#require "str";;\n#directory "+unix"\n#warnings "-a";;\n\nlet double x = x + x;;\n\n#show double;;\n#quit;;',
    ),
    "a_script_with_a_directive_below_its_comment": (
        "(** Twice. *)\nlet double (x : int) : int =",
        "let () = assert (double 3 = 6); assert (double 0 = 0)",
        '(* #use "this" *)\n#load "nums.cma";;\nlet usage = "#use it"\nlet double x =\n  let o = object method two = 2 end in\n  o#two * x',
    ),
    "the_problem_asks_for_max": (
        "(** The largest of three. *)\nlet max (a : int) (b : int) (c : int) : int =",
        "let () = assert (max 1 2 3 = 3); assert (max 5 2 3 = 5)",
        "let max a b c = if a >= b && a >= c then a else if b >= c then b else c",
    ),
    "the_problem_asks_for_compare": (
        "(** Compare by absolute value. *)\nlet compare (a : int) (b : int) : int =",
        "let () = assert (compare (-3) 2 > 0); assert (List.sort compare [3; -1; 2] = [-1; 2; 3])",
        "let compare a b = Stdlib.compare (abs a) (abs b)",
    ),
    "the_problem_asks_for_not": (
        "(** Negate a digit. *)\nlet not (x : int) : int =",
        "let () = assert (not 0 = 1); assert (not 1 = 0)",
        "let not x = 1 - x",
    ),
    "the_problem_gives_a_type": (
        "type tree = Leaf | Node of tree * int * tree\n(** Sum of a tree. *)\nlet rec sum_tree (t : tree) : int =",
        "let () = assert (sum_tree Leaf = 0); assert (sum_tree (Node (Leaf, 2, Node (Leaf, 3, Leaf))) = 5)",
        "let rec sum_tree t = match t with Leaf -> 0 | Node (l, x, r) -> sum_tree l + x + sum_tree r",
    ),
    "the_problem_gives_a_type_after_the_comment": (
        "(** Area. *)\ntype shape =\n  | Circle of float  (* radius *)\n  | Square of float\n\nlet area (s : shape) : float =",
        "let () = assert (area (Square 2.0) = 4.0); assert (area (Circle 0.0) = 0.0)",
        "  match s with\n  | Circle r -> 3.14 *. r *. r\n  | Square a -> a *. a",
    ),
    "the_completion_repeats_the_given_type": (
        "type tree = Leaf | Node of tree * int * tree\n(** Sum of a tree. *)\nlet rec sum_tree (t : tree) : int =",
        "let () = assert (sum_tree Leaf = 0); assert (sum_tree (Node (Leaf, 2, Node (Leaf, 3, Leaf))) = 5)",
        "type tree = Leaf | Node of tree * int * tree\n"
        "let rec sum_tree t = match t with Leaf -> 0 | Node (l, x, r) -> sum_tree l + x + sum_tree r",
    ),
    "the_problem_gives_a_type_named_option": (
        "type 'a option = None | Some of 'a\n(** Get or a default. *)\nlet get (o : 'a option) (d : 'a) : 'a =",
        "let () = assert (get (Some 1) 2 = 1); assert (get None 2 = 2)",
        "let get o d = match o with Some x -> x | None -> d",
    ),
    "the_problem_gives_a_type_named_list_and_the_completion_repeats_it": (
        "type 'a list = Nil | Cons of 'a * 'a list\n(** Length. *)\nlet rec length (l : 'a list) : int =",
        "let () = assert (length Nil = 0); assert (length (Cons (1, Cons (2, Nil))) = 2)",
        "type 'a list = Nil | Cons of 'a * 'a list\nlet rec length = function Nil -> 0 | Cons (_, t) -> 1 + length t",
    ),
    "the_problem_gives_an_exception": (
        "exception Empty\n(** First element. *)\nlet first (l : int list) : int =",
        "let () = assert (first [1; 2] = 1); assert (try ignore (first []); false with Empty -> true)",
        "let first = function [] -> raise Empty | x :: _ -> x",
    ),
    "the_problem_gives_a_record_named_ref": (
        "type 'a ref = { mutable contents : 'a; mutable writes : int }\n(** Write. *)\nlet write (r : int ref) (x : int) : int =",
        "let () = let r = { contents = 1; writes = 0 } in assert (write r 5 = 1); assert (write r 6 = 2)",
        "let write r x = r.contents <- x; r.writes <- r.writes + 1; r.writes",
    ),
    "the_problem_gives_a_module": (
        "module Stack = struct type t = int list let empty : t = [] end\n(** Push. *)\nlet push (s : Stack.t) (x : int) : Stack.t =",
        "let () = assert (push Stack.empty 1 = [1]); assert (push [2] 1 = [1; 2])",
        "let push s x = x :: s",
    ),
    "own_exception_seen_by_the_tests": (
        "(** Pop; raises Underflow on an empty stack. *)\nlet pop (l : int list) : int * int list =",
        "let () = assert (pop [1; 2] = (1, [2])); assert (match pop [] with exception Underflow -> true | _ -> false)",
        "exception Underflow\nlet pop = function [] -> raise Underflow | x :: rest -> (x, rest)",
    ),
    "own_type_seen_by_the_tests": (
        "(** Parse a colour: Red, Green or Other. *)\nlet colour (s : string) : colour =",
        'let () = assert (colour "red" = Red); assert (colour "x" = Other "x")',
        'type colour = Red | Green | Other of string\nlet colour = function "red" -> Red | "green" -> Green | s -> Other s',
    ),
    "records_and_labels": (
        "(** Translate a point. *)\nlet shift ~dx ?(dy = 0) (x, y) =",
        "let () = assert (shift ~dx:1 (1, 1) = (2, 1)); assert (shift ~dx:1 ~dy:2 (1, 1) = (2, 3))",
        "type point = { x : int; y : int }\nlet move ~dx ~dy p = { x = p.x + dx; y = p.y + dy }\n"
        "let shift ~dx ?(dy = 0) (x, y) = let p = move ~dx ~dy { x; y } in (p.x, p.y)",
    ),
    "modules_and_functors": (
        "(** Count distinct words. *)\nlet distinct (words : string list) : int =",
        'let () = assert (distinct ["a"; "b"; "a"] = 2); assert (distinct [] = 0)',
        "module type KEY = sig type t val compare : t -> t -> int end\n"
        "module Counter (K : KEY) = struct module S = Set.Make (K) let count l = S.cardinal (S.of_list l) end\n"
        "module Words = Counter (String)\nlet distinct = Words.count",
    ),
    "extended_library_modules": (
        "(** Sum and length. *)\nlet sum_len (l : int list) : int * int =",
        "let () = assert (sum_len [1; 2; 3] = (6, 3)); assert (sum_len [] = (0, 0))",
        "module List = struct include List let sum = fold_left ( + ) 0 end\n"
        "module String = struct include String let shout = uppercase_ascii end\n"
        "module Array = struct include Array end\nmodule Bytes = struct include Bytes end\n"
        "let sum_len l = (List.sum l, List.length l)",
    ),
    "include_stdlib": (
        "(** Add. *)\nlet add (a : int) (b : int) : int =",
        "let () = assert (add 1 2 = 3)",
        "include Stdlib\nlet add = ( + )",
    ),
    "first_class_modules": (
        "(** Apply n times. *)\nlet power (x : int) (n : int) : int =",
        "let () = assert (power 2 10 = 1024); assert (power 3 0 = 1)",
        "module type MONOID = sig type t val one : t val mul : t -> t -> t end\n"
        "let pow (type a) (module M : MONOID with type t = a) (x : a) n =\n"
        "  let rec go n = if n = 0 then M.one else M.mul x (go (n - 1)) in go n\n"
        "let power = pow (module struct type t = int let one = 1 let mul = ( * ) end)",
    ),
    "gadts": (
        "(** Evaluate 1 + 2 or its sign. *)\nlet demo (b : bool) : int =",
        "let () = assert (demo true = 3); assert (demo false = 0)",
        "type _ expr = Int : int -> int expr | Bool : bool -> bool expr | Add : int expr * int expr -> int expr\n"
        "  | If : bool expr * 'a expr * 'a expr -> 'a expr\n"
        "let rec eval : type a. a expr -> a = function Int n -> n | Bool b -> b | Add (a, b) -> eval a + eval b\n"
        "  | If (c, t, e) -> if eval c then eval t else eval e\n"
        "let demo b = eval (If (Bool b, Add (Int 1, Int 2), Int 0))",
    ),
    "polymorphic_variants": (
        "(** Weight of a kind. *)\nlet weight k =",
        "let () = assert (weight `Light = 1); assert (weight (`Heavy 5) = 5)",
        "let weight = function `Light -> 1 | `Heavy n -> n",
    ),
    "objects_and_classes": (
        "(** Count to n with an object. *)\nlet count (n : int) : int =",
        "let () = assert (count 3 = 3); assert (count 0 = 0)",
        "class counter = object val mutable n = 0 method tick = n <- n + 1 method value = n end\n"
        "class loud = object inherit counter as super method! tick = super#tick end\n"
        "let count n = let c = new loud in for _ = 1 to n do c#tick done; c#value",
    ),
    "mutual_recursion": (
        "(** Is it even? *)\nlet is_even (n : int) : bool =",
        "let () = assert (is_even 10); assert (not (is_even 7))",
        "let rec is_even n = n = 0 || is_odd (n - 1)\nand is_odd n = n <> 0 && is_even (n - 1)",
    ),
    "imperative": (
        "(** Primes up to n. *)\nlet primes (n : int) : int list =",
        "let () = assert (primes 10 = [2; 3; 5; 7]); assert (primes 1 = [])",
        "let primes n =\n  let sieve = Array.make (n + 1) true in\n  let i = ref 2 in\n  while !i * !i <= n do\n"
        "    if sieve.(!i) then begin\n      let j = ref (!i * !i) in\n      while !j <= n do sieve.(!j) <- false; j := !j + !i done\n"
        "    end;\n    incr i\n  done;\n  let out = ref [] in\n  for k = n downto 2 do if sieve.(k) then out := k :: !out done;\n  !out",
    ),
    "hashtables": (
        "(** Most frequent. *)\nlet mode (l : int list) : int =",
        "let () = assert (mode [1; 2; 2; 3] = 2); assert (mode [7] = 7)",
        "let mode l =\n  let h = Hashtbl.create 16 in\n"
        "  List.iter (fun x -> Hashtbl.replace h x (1 + Option.value ~default:0 (Hashtbl.find_opt h x))) l;\n"
        "  fst (Hashtbl.fold (fun k c (bk, bc) -> if c > bc then (k, c) else (bk, bc)) h (0, 0))",
    ),
    "hashtbl_functor_and_maps": (
        "(** Group sizes. *)\nlet groups (l : string list) : (int * int) list =",
        'let () = assert (groups ["a"; "bb"; "c"] = [(1, 2); (2, 1)]); assert (groups [] = [])',
        "module H = Hashtbl.Make (struct type t = int let equal = Int.equal let hash = Hashtbl.hash end)\n"
        "module M = Map.Make (Int)\nlet groups l =\n  let h = H.create 8 in\n"
        "  List.iter (fun s -> let n = String.length s in H.replace h n (1 + try H.find h n with Not_found -> 0)) l;\n"
        "  M.bindings (H.fold M.add h M.empty)",
    ),
    "memo_table_at_top_level": (
        "(** Fibonacci. *)\nlet fib (n : int) : int =",
        "let () = assert (fib 50 = 12586269025); assert (fib 0 = 0)",
        "let memo = Hashtbl.create 97\nlet rec fib n = if n < 2 then n else match Hashtbl.find_opt memo n with Some v -> v\n"
        "  | None -> let v = fib (n - 1) + fib (n - 2) in Hashtbl.add memo n v; v",
    ),
    "buffers_and_printf": (
        "(** Run-length encoding. *)\nlet rle (s : string) : string =",
        'let () = assert (rle "aaab" = "3a1b"); assert (rle "" = "")',
        "let rle s =\n  let b = Buffer.create 16 and n = String.length s in\n  let rec go i =\n    if i < n then begin\n"
        "      let j = ref i in\n      while !j < n && s.[!j] = s.[i] do incr j done;\n"
        '      Buffer.add_string b (Printf.sprintf "%d%c" (!j - i) s.[i]);\n      go !j\n    end in\n  go 0;\n  Buffer.contents b',
    ),
    "debug_printing": (
        "(** Add. *)\nlet add (a : int) (b : int) : int =",
        "let () = assert (add 1 2 = 3)",
        'open Printf\nlet add a b = printf "adding %d and %d\\n%!" a b; eprintf "debug\\n"; Format.printf "@[%d@]@." a;\n'
        '  fprintf stderr "x"; output_string stdout "y"; flush_all (); a + b\n'
        'let () = Printf.printf "%d\\n" (add 1 2)\nlet () = print_endline "done"; print_newline ()',
    ),
    "main_block_with_own_asserts": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        'let double x = 2 * x\n\nlet () =\n  assert (double 1 = 2);\n  List.iter (fun x -> Printf.printf "%d -> %d\\n" x (double x)) [1; 2; 3]',
    ),
    "interactive_main": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        "let double x = 2 * x\nlet main () = if Array.length Sys.argv > 1 then print_int (double (int_of_string Sys.argv.(1)))\n"
        "let () = if not !Sys.interactive then main ()",
    ),
    "double_semicolons": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4);;\nassert (double 3 = 6);;\n",
        "let helper x = x + x;;\nlet double x = helper x;;\nprint_int (double 4);;",
    ),
    "scanf": (
        '(** Parse "a,b". *)\nlet parse (s : string) : int * int =',
        'let () = assert (parse "1,2" = (1, 2)); assert (parse "-3,4" = (-3, 4))',
        'let parse s = Scanf.sscanf s "%d,%d" (fun a b -> (a, b))',
    ),
    "sequences": (
        "(** First n squares. *)\nlet squares (n : int) : int list =",
        "let () = assert (squares 3 = [0; 1; 4]); assert (squares 0 = [])",
        "let rec naturals n () = Seq.Cons (n, naturals (n + 1))\n"
        "let rec take n s = if n = 0 then [] else match s () with Seq.Nil -> [] | Seq.Cons (x, r) -> x :: take (n - 1) r\n"
        "let squares n = take n (Seq.map (fun x -> x * x) (naturals 0))",
    ),
    "options_results_either": (
        "(** Safe division. *)\nlet divide (a : int) (b : int) : (int, string) result =",
        'let () = assert (divide 4 2 = Ok 2); assert (divide 1 0 = Error "zero")',
        'let ( let* ) = Result.bind\nlet check b = if b = 0 then Error "zero" else Ok b\n'
        "let divide a b = let* b = check b in Ok (a / b)",
    ),
    "bytes_and_chars": (
        "(** Reverse and capitalize. *)\nlet flip (s : string) : string =",
        'let () = assert (flip "abc" = "CBA"); assert (flip "" = "")',
        "let flip s =\n  let n = String.length s in\n  let b = Bytes.create n in\n"
        "  for i = 0 to n - 1 do Bytes.set b i (Char.uppercase_ascii s.[n - 1 - i]) done;\n  Bytes.to_string b",
    ),
    "unsafe_but_harmless_functions": (
        "(** Shift the letters. *)\nlet shift (s : string) : string =",
        'let () = assert (shift "abc" = "bcd"); assert (shift "" = "")',
        "open Bytes\nlet shift s =\n  let b = Bytes.unsafe_of_string s in\n  let c = Bytes.create (Bytes.length b) in\n"
        "  Bytes.unsafe_blit b 0 c 0 (Bytes.length b);\n"
        "  for i = 0 to Bytes.length c - 1 do\n"
        "    Bytes.unsafe_set c i (Char.unsafe_chr (Char.code (String.unsafe_get s i) + 1))\n  done;\n"
        "  let a = [| 1 |] in Array.unsafe_set a 0 (Array.unsafe_get a 0);\n  unsafe_to_string c",
    ),
    "string_functions": (
        "(** Words of a sentence. *)\nlet words (s : string) : string list =",
        'let () = assert (words " a  b " = ["a"; "b"]); assert (words "" = [])',
        "let words s = String.split_on_char ' ' (String.trim s) |> List.filter (( <> ) \"\") |> List.map String.trim",
    ),
    "random_with_a_fixed_seed": (
        "(** A permutation. *)\nlet shuffle (l : int list) : int list =",
        "let () = assert (List.sort compare (shuffle [3; 1; 2]) = [1; 2; 3]); assert (List.length (shuffle [1; 1]) = 2)",
        "let () = Random.init 42\nlet shuffle l = List.map snd (List.sort compare (List.map (fun x -> (Random.bits (), x)) l))",
    ),
    "random_self_init": (
        "(** Pick one. *)\nlet pick (l : int list) : int =",
        "let () = assert (List.mem (pick [1; 2; 3]) [1; 2; 3])",
        "let () = Random.self_init ()\nlet pick l = List.nth l (Random.int (List.length l))",
    ),
    "lazy_values": (
        "(** The n-th prime power of two. *)\nlet pow2 (n : int) : int =",
        "let () = assert (pow2 5 = 32); assert (pow2 0 = 1)",
        "type 'a stream = Cons of 'a * 'a stream Lazy.t\nlet rec from x = Cons (x, lazy (from (2 * x)))\n"
        "let rec nth (Cons (x, (lazy rest))) n = if n = 0 then x else nth rest (n - 1)\nlet pow2 n = nth (from 1) n",
    ),
    "exceptions_for_control": (
        "(** Index of an element or -1. *)\nlet index (l : int list) (x : int) : int =",
        "let () = assert (index [4; 5] 5 = 1); assert (index [] 5 = -1)",
        "exception Found of int\nlet index l x =\n  try List.iteri (fun i y -> if x = y then raise (Found i)) l; -1 with Found i -> i",
    ),
    "deep_recursion": (
        "(** Sum to n. *)\nlet rec sum (n : int) : int =",
        "let () = assert (sum 200000 = 20000100000); assert (List.length (List.map succ (List.init 100000 Fun.id)) = 100000)",
        "let rec sum n = if n = 0 then 0 else n + sum (n - 1)",
    ),
    "int32_int64_float": (
        "(** Mix of numbers. *)\nlet mix (x : float) : int64 =",
        "let () = assert (mix 2.5 = 5L); assert (mix 0. = 0L)",
        "let mix x = Int64.add (Int64.of_float (x *. 2.)) (Int64.of_int32 (Int32.sub 1l 1l))",
    ),
    "timing_and_environment": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        'let t0 = Sys.time ()\nlet debug = Sys.getenv_opt "DEBUG" <> None\n'
        "let double x = if debug then print_float (Sys.time () -. t0); ignore Sys.word_size; 2 * x",
    ),
    "gc_statistics": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        "let double x = Gc.compact (); ignore (Gc.stat ()); 2 * x",
    ),
    "printexc": (
        "(** Name of an exception. *)\nlet name (n : int) : string =",
        'let () = assert (name 0 = "Division_by_zero"); assert (name 1 = "none")',
        'let name n = try ignore (1 / n); "none" with e -> Printexc.to_string e',
    ),
    "attributes": (
        "(** Factorial. *)\nlet fact (n : int) : int =",
        "let () = assert (fact 5 = 120)",
        '[@@@warning "-32"]\nlet[@inline] mul a b = a * b\nlet[@warning "-8"] fact n = let rec go a n = if n <= 1 then a else (go [@tailcall]) (mul a n) (n - 1) in go 1 n\n'
        "type t = A [@@deriving show]",
    ),
    "extensible_and_private_types": (
        "(** Size. *)\nlet size (n : int) : int =",
        "let () = assert (size 3 = 3)",
        "type event = ..\ntype event += Tick of int\nmodule P : sig type t = private int val make : int -> t end = struct type t = int let make x = x end\n"
        "let size n = match Tick n with Tick k -> (P.make k :> int) | _ -> 0",
    ),
    "recursive_modules": (
        "(** Depth. *)\nlet depth (n : int) : int =",
        "let () = assert (depth 3 = 3)",
        "module rec A : sig val f : int -> int end = struct let f n = if n = 0 then 0 else 1 + B.f (n - 1) end\n"
        "and B : sig val f : int -> int end = struct let f n = if n = 0 then 0 else 1 + A.f (n - 1) end\nlet depth = A.f",
    ),
    "pervasives": (
        "(** Max. *)\nlet largest (a : int) (b : int) : int =",
        "let () = assert (largest 1 2 = 2)",
        "let largest a b = Pervasives.max a (Stdlib.max a b)",
    ),
    "queues_and_stacks": (
        "(** Reverse through a stack. *)\nlet reverse (l : int list) : int list =",
        "let () = assert (reverse [1; 2; 3] = [3; 2; 1])",
        "let reverse l =\n  let s = Stack.create () and q = Queue.create () in\n  List.iter (fun x -> Stack.push x s) l;\n"
        "  while not (Stack.is_empty s) do Queue.add (Stack.pop s) q done;\n  List.of_seq (Queue.to_seq q)",
    ),
    "format": (
        "(** Show a pair. *)\nlet show (a : int) (b : int) : string =",
        'let () = assert (show 1 2 = "(1, 2)")',
        'let pp ppf (a, b) = Format.fprintf ppf "(%d, %d)" a b\nlet show a b = Format.asprintf "%a" pp (a, b)',
    ),
    "body_that_needs_a_missing_rec": (
        "(** Factorial. *)\nlet fact (n : int) : int =",
        "let () = assert (fact 5 = 120)",
        "  if n <= 1 then 1 else n * fact (n - 1)",
    ),
    "body_that_means_the_library_function": (
        "(** The larger one, at least zero. *)\nlet max (a : int) (b : int) : int =",
        "let () = assert (max (-1) (-2) = 0); assert (max 3 4 = 4)",
        "  max 0 (max a b)",
    ),
    "body_with_a_local_function_of_the_same_name": (
        "(** Greatest common divisor. *)\nlet gcd (a : int) (b : int) : int =",
        "let () = assert (gcd 12 18 = 6)",
        "let rec gcd a b = if b = 0 then a else gcd b (a mod b) in gcd a b",
    ),
    "body_that_starts_with_a_helper": (
        "(** Reverse. *)\nlet reverse (l : int list) : int list =",
        "let () = assert (reverse [1; 2] = [2; 1])",
        "  let rec go acc = function\n    | [] -> acc\n    | x :: rest -> go (x :: acc) rest\n  in\n  go [] l",
    ),
    "helper_before_the_definition": (
        "(** Reverse. *)\nlet reverse (l : int list) : int list =",
        "let () = assert (reverse [1; 2] = [2; 1])",
        "let rec go acc = function [] -> acc | x :: rest -> go (x :: acc) rest\n\nlet reverse l = go [] l",
    ),
    "point_free_and_function": (
        "(** Length. *)\nlet len : int list -> int =",
        "let () = assert (len [1; 2] = 2)",
        "  function [] -> 0 | _ :: rest -> 1 + List.length rest",
    ),
    "records_of_many_fields": (
        "(** Update. *)\nlet total (n : int) : int =",
        "let () = assert (total 5 = 15)",
        "type r = { a : int; b : int; c : int; d : int; e : int; f : float; mutable g : string }\n"
        'let base = { a = 1; b = 2; c = 3; d = 4; e = 0; f = 0.5; g = "" }\n'
        'let total n = let r = { base with e = n; g = "x" } in r.g <- "y"; r.a + r.b + r.c + r.d + r.e',
    ),
    "constant_and_float_arrays": (
        "(** Sum of the first n weights. *)\nlet weights (n : int) : float =",
        "let () = assert (weights 2 = 3.0); assert (weights 0 = 0.0)",
        'let table = [| 1.0; 2.0; 3.0 |]\nlet names = [| "a"; "b" |]\nlet grid = Array.make_matrix 3 3 0\n'
        "let weights n =\n  grid.(1).(2) <- n;\n  let copy = [| 5; 6; 7 |] in\n  Array.sort (fun a b -> compare b a) copy;\n"
        "  ignore (Array.concat [ copy; [| 1 |] ]);\n  ignore (Float.Array.make 3 0.0);\n"
        "  Array.fold_left ( +. ) 0.0 (Array.sub table 0 n)",
    ),
    "cyclic_and_recursive_values": (
        "(** The n-th of a cycle. *)\nlet cycle (n : int) : int =",
        "let () = assert (cycle 0 = 1); assert (cycle 4 = 2)",
        "let rec ring = 1 :: 2 :: 3 :: ring\ntype node = { value : int; next : node }\nlet rec self = { value = 1; next = self }\n"
        "let rec even n = n = 0 || odd (n - 1) and odd n = n <> 0 && even (n - 1)\nlet cycle n = ignore (even 4); ignore self.next; List.nth ring n",
    ),
    "virtual_classes_and_copies": (
        "(** Area. *)\nlet area (w : int) (h : int) : int =",
        "let () = assert (area 2 3 = 6)",
        "class virtual shape = object (self) method virtual area : int method twice = 2 * self#area end\n"
        "class rect w h = object inherit shape val w = w method area = w * h method widen n = {< w = w + n >} end\n"
        "let area w h = let r = new rect w h in let s = (r#widen 0 :> shape) in let o = object method id = Oo.id s end in\n"
        "  ignore o#id; s#twice / 2",
    ),
    "binding_operators": (
        "(** Add two options. *)\nlet add_opt (a : int option) (b : int option) : int option =",
        "let () = assert (add_opt (Some 1) (Some 2) = Some 3); assert (add_opt None (Some 1) = None)",
        "let ( let+ ) o f = Option.map f o\nlet ( and+ ) a b = match (a, b) with Some x, Some y -> Some (x, y) | _ -> None\n"
        "let add_opt a b = let+ x = a and+ y = b in x + y",
    ),
    "formats_of_all_kinds": (
        "(** Show. *)\nlet show (n : int) : string =",
        'let () = assert (show 255 = "ff 0255 255.00 \\"255\\" [1; 2] true")',
        'let list ppf l = Format.pp_print_list ~pp_sep:(fun p () -> Format.fprintf p "; ") Format.pp_print_int ppf l\n'
        'let show n = Printf.ksprintf (fun s -> s) "%x %04d %.2f %S %s %B" n n (float n) (string_of_int n)\n'
        '  (Format.asprintf "[%a]" list [ 1; 2 ]) true',
    ),
    "string_and_bytes_encodings": (
        "(** Round trip. *)\nlet trip (n : int) : int =",
        "let () = assert (trip 300 = 300)",
        "let trip n = let b = Bytes.make 8 '\\000' in Bytes.set_int32_le b 0 (Int32.of_int n);\n"
        '  ignore (Bytes.get_uint8 b 1); ignore (Digest.to_hex (Digest.string "x")); ignore (String.concat "," [ "a" ]);\n'
        "  ignore (Uchar.to_int (Uchar.of_char 'a')); Int32.to_int (Bytes.get_int32_le b 0)",
    ),
    "string_matching_and_ranges": (
        "(** Kind of a character. *)\nlet kind (c : char) : string =",
        "let () = assert (kind 'x' = \"letter\"); assert (kind '5' = \"digit\"); assert (kind '.' = \"other\")",
        "let kind = function 'a' .. 'z' | 'A' .. 'Z' -> \"letter\" | '0' .. '9' -> \"digit\" | _ -> \"other\"\n"
        'let _ = match "abc" with "abc" -> 1 | "x" | "y" -> 2 | _ -> 3',
    ),
    "labels_modules": (
        "(** Sum. *)\nlet sum (l : int list) : int =",
        "let () = assert (sum [1; 2] = 3)",
        "open StdLabels\nmodule M = MoreLabels.Map.Make (Int)\nlet sum l = List.fold_left l ~init:0 ~f:( + )",
    ),
    "local_exceptions_and_protect": (
        "(** First multiple of 7 in a list. *)\nlet find7 (l : int list) : int option =",
        "let () = assert (find7 [1; 14] = Some 14); assert (find7 [] = None)",
        "let find7 l =\n  let exception Found of int in\n"
        "  Fun.protect ~finally:(fun () -> ()) (fun () ->\n"
        "    try List.iter (fun x -> if x mod 7 = 0 then raise (Found x)) l; None with Found x -> Some x)",
    ),
    "polymorphic_recursion_and_fields": (
        "(** Size of a nested list. *)\nlet size (n : int) : int =",
        "let () = assert (size 3 = 7)",
        "type 'a nested = Nil | Cons of 'a * ('a * 'a) nested\n"
        "let rec len : 'a. 'a nested -> int = function Nil -> 0 | Cons (_, r) -> 1 + (2 * len r)\n"
        "type t = { id : 'a. 'a -> 'a }\nlet i = { id = (fun x -> x) }\n"
        'let size n = ignore (i.id n, i.id ""); len (Cons (1, Cons ((1, 1), Cons (((1, 1), (1, 1)), Nil))))',
    ),
    "bigarrays_and_weak_tables": (
        "(** Sum. *)\nlet sum (n : int) : int =",
        "let () = assert (sum 4 = 6)",
        "let sum n = let a = Bigarray.(Array1.init int c_layout n (fun i -> i)) in\n"
        "  let w = Weak.create 1 in Weak.set w 0 (Some (ref 1));\n"
        "  let s = ref 0 in for i = 0 to n - 1 do s := !s + a.{i} done; !s",
    ),
    "functor_with_a_shared_type": (
        "(** Priority. *)\nlet smallest (l : int list) : int =",
        "let () = assert (smallest [3; 1; 2] = 1)",
        "module type ORD = sig type t val compare : t -> t -> int end\n"
        "module type HEAP = sig type elt type t val empty : t val add : elt -> t -> t val min : t -> elt option end\n"
        "module Heap (O : ORD) : HEAP with type elt = O.t = struct\n  type elt = O.t type t = E | N of int * elt * t * t\n"
        "  let empty = E let rank = function E -> 0 | N (r, _, _, _) -> r\n"
        "  let make x a b = if rank a >= rank b then N (rank b + 1, x, a, b) else N (rank a + 1, x, b, a)\n"
        "  let rec merge a b = match a, b with E, h | h, E -> h\n"
        "    | N (_, x, l, r), N (_, y, l', r') -> if O.compare x y <= 0 then make x l (merge r b) else make y l' (merge a r')\n"
        "  let add x h = merge (N (1, x, E, E)) h let min = function E -> None | N (_, x, _, _) -> Some x\nend\n"
        "module H = Heap (Int)\nlet smallest l = Option.get (H.min (List.fold_left (fun h x -> H.add x h) H.empty l))",
    ),
    "reads_standard_input_that_is_empty": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        "let double x = 2 * x\nlet () = try print_int (double (int_of_string (read_line ()))) with End_of_file -> ()",
    ),
    "an_apostrophe_in_a_comment": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        "(* It's easy: don't think. *)\nlet double x' = x' + x' (* x' is the caller's *)",
    ),
    "own_step_and_check_names": (
        "(** Double. *)\nlet double (x : int) : int =",
        "let () = assert (double 2 = 4)",
        'let check b = b let step = 2 let failure = Failure "x" let run () = ()\nmodule Solution = struct let double x = step * x end\n'
        "module Tests = struct end\nlet double = Solution.double",
    ),
}

# How tests may be written besides `let () = assert ...; assert ...`: name -> (tests, number of asserts), all true of
# `let f x = if x < 0 then invalid_arg "f" else 2 * x`.
TEST_SHAPES: dict[str, tuple[str, int]] = {
    "top_level_expressions": ("assert (f 1 = 2);;\nassert (f 2 = 4);;", 2),
    "one_binding_each": ("let () = assert (f 1 = 2)\nlet () = assert (f 2 = 4)\nlet _ = assert (f 3 = 6)", 3),
    "named_bindings": ("let test_one = assert (f 1 = 2)\nlet test_two = assert (f 2 = 4)", 2),
    "a_test_function": ("let test () = assert (f 1 = 2); assert (f 2 = 4)\nlet () = test ()", 2),
    "a_helper": ("let check x y = assert (f x = y)\nlet () = check 1 2; check 2 4", 1),
    "a_table": ("let () = List.iter (fun (x, y) -> assert (f x = y)) [ (1, 2); (2, 4) ]", 1),
    "set_up_between": (
        "let () =\n  let a = f 1 in\n  assert (a = 2);\n  let b = f a in\n  assert (b = 4);\n  print_int b",
        2,
    ),
    "an_expected_exception": ("let () = assert (try ignore (f (-1)); false with Invalid_argument _ -> true)", 1),
    "assert_false_after_the_call": ("let () = (try ignore (f (-1)); assert false with Invalid_argument _ -> ())", 1),
    "assert_within_try": ("let () = (try assert (f (-1) = 0) with Invalid_argument _ -> ()); assert (f 1 = 2)", 2),
    "match_with_exception": ("let () = match f (-1) with exception Invalid_argument _ -> () | _ -> assert false", 1),
    "a_branch_not_taken": ("let () = match f 1 with 2 -> assert (f 2 = 4) | _ -> assert false", 2),
    "a_value_from_a_branch": ("let x = match f 1 with 2 -> 7 | _ -> assert false\nlet () = assert (x = 7)", 2),
    "a_local_module": ("module T = struct let two = f 1 end\nlet () = assert (T.two = 2)", 1),
    "opens": ("open List\nlet () = let open Stdlib in assert (map f [ 1; 2 ] = [ 2; 4 ])", 1),
    "a_discarded_value": ('let () = ignore (f 1); f 2 |> ignore; assert (f 1 = 2); print_endline "ok"', 1),
    "a_non_unit_statement": ("let () = f 1; assert (f 1 = 2)", 1),
    "own_types": (
        "type t = { x : int; y : int }\nlet () = List.iter (fun t -> assert (f t.x = t.y)) [ { x = 1; y = 2 } ]",
        1,
    ),
    "nested_lets_and_begin": ("let () = begin let a = 1 in assert (f a = 2) end; begin assert (f 2 = 4) end", 2),
    "asserts_in_a_condition": ("let () = if f 1 = 2 then assert (f 2 = 4) else assert (f 2 = 5)", 2),
    "unit_type_annotation": ("let () : unit = assert (f 1 = 2)", 1),
}
