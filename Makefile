# The commands of the README. Each is a script that prints what it does; set-up is part of it.
.PHONY: demo test bench soak dist clean

demo:  ; @scripts/demo.sh
test:  ; @scripts/test.sh
bench: ; @scripts/bench.sh
soak:  ; @scripts/soak.sh
dist:  ; @scripts/dist.sh
clean: ; rm -rf target
