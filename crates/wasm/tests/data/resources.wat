;; A function that makes resources of its own without end when it is given anything, and that grows
;; a table without end when it is given nothing.
(component
  (type $own (resource (rep i32)))
  (core func $new (canon resource.new $own))
  (core module $hoard
    (import "host" "new" (func $new (param i32) (result i32)))
    (memory (export "memory") 1)
    (table $table 1 funcref)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.add (global.get $free) (local.get $size)))
      (local.get $at))
    (func (export "handle") (param i32 i32 i32) (param $length i32) (result i32)
      (if (i32.eqz (local.get $length))
        (then
          (loop $grow
            (br_if $grow (i32.ne (i32.const -1) (table.grow $table (ref.null func) (i32.const 1000)))))
          unreachable))
      (loop $more
        (drop (call $new (i32.const 7)))
        (br $more))
      unreachable))
  (core instance $i (instantiate $hoard (with "host" (instance (export "new" (func $new))))))
  (type $payload' (record (field "content-type" string) (field "body" (list u8))))
  (export $payload "payload" (type $payload'))
  (type $error' (record (field "code" string) (field "message" string)))
  (export $error "error" (type $error'))
  (type $handle (func (param "input" $payload) (result (result $payload (error $error)))))
  (func $handle (type $handle)
    (canon lift (core func $i "handle")
      (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (export "handle" (func $handle)))
