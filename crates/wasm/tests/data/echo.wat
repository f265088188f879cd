;; The smallest function: it gives what it was given. It compiles in a millisecond or two, for
;; tests that deploy thousands.
(component
  (core module $echo
    (memory (export "memory") 1)
    ;; Below 1024 is the result's place.
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32)
      (result i32)
      (local $at i32)
      (local.set $at (global.get $free))
      (global.set $free (i32.add (global.get $free) (local.get $size)))
      (block $fits
        (br_if $fits
          (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $fits
          (i32.ne (i32.const -1)
            (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536))))))
        unreachable)
      (local.get $at))
    ;; ok(payload { content-type, body })
    (func (export "handle") (param $type i32) (param $type-length i32) (param $body i32) (param $length i32)
      (result i32)
      (i32.store8 (i32.const 16) (i32.const 0))
      (i32.store (i32.const 20) (local.get $type))
      (i32.store (i32.const 24) (local.get $type-length))
      (i32.store (i32.const 28) (local.get $body))
      (i32.store (i32.const 32) (local.get $length))
      (i32.const 16))
    (func (export "return") (param i32)
      (global.set $free (i32.const 1024))))
  (core instance $i (instantiate $echo))
  (type $payload' (record (field "content-type" string) (field "body" (list u8))))
  (export $payload "payload" (type $payload'))
  (type $error' (record (field "code" string) (field "message" string)))
  (export $error "error" (type $error'))
  (type $handle (func (param "input" $payload) (result (result $payload (error $error)))))
  (func $handle (type $handle)
    (canon lift (core func $i "handle")
      (memory (core memory $i "memory")) (realloc (core func $i "realloc"))
      (post-return (core func $i "return"))))
  (export "handle" (func $handle)))
